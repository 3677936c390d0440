"""What a source hands on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

# Bytes that are read at once, even if more has arrived: messages may have megabytes each.
ENOUGH = 16 * 1024 * 1024


class Delivery(NamedTuple):
    """One message in hand. `tag` is what its source knows it by."""

    body: bytes | str
    content_type: str | None
    headers: Mapping[str, Any]
    tag: Any


class Source(Protocol):
    """Where messages come from. Whatever it raises means: close it, and open it again."""

    def open(self) -> None:
        """Connect."""
        ...

    def close(self) -> None:
        """Let go of the connection, in bounded time; what is in hand is the broker's again."""
        ...

    def receive(self, most: int) -> Sequence[Delivery]:
        """What has arrived, at most `most` and not much above ENOUGH; waits for the first about a second."""
        ...

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """These are passed on or kept: let the broker forget them."""
        ...

    def beat(self) -> None:
        """A sign of life to the broker, while we wait for something else: at least every ten seconds."""
        ...
