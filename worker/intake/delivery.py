"""What a source hands on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Delivery(NamedTuple):
    """One message in hand. `tag` is what its source knows it by."""

    body: bytes | str
    content_type: str | None
    headers: Mapping[str, Any]
    tag: Any


class Source(Protocol):
    """Where messages come from. Whatever it raises means: connect again."""

    def receive(self, most: int) -> Sequence[Delivery]:
        """What has arrived, at most `most`; waits for the first at most a second."""
        ...

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """These are passed on or kept: let the broker forget them."""
        ...

    def beat(self) -> None:
        """A sign of life to the broker, while we wait for something else."""
        ...
