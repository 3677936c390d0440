"""What a client may see, and what a token lets it do."""

from collections.abc import Collection
from dataclasses import dataclass, replace

EVERYBODY = "*"
SEND, OPERATE = "send", "operate"


class Unseen(Exception):
    """The token does not show this owner."""


@dataclass(frozen=True, slots=True)
class View:
    """The conversations of these owners (None: of everybody), of those only these (None: all of them)."""

    owner_ids: frozenset[str] | None = None
    conversation_ids: frozenset[str] | None = None

    @property
    def everything(self) -> bool:
        return self.owner_ids is None and self.conversation_ids is None

    def shows(self, owner_id: str | None, conversation_id: str) -> bool:
        return (self.owner_ids is None or owner_id in self.owner_ids) and (
            self.conversation_ids is None or conversation_id in self.conversation_ids
        )

    def of(self, owner_id: str | None) -> "View":
        """Of this only one owner's; None takes nothing away. Raises Unseen."""
        if owner_id is None:
            return self
        if self.owner_ids is not None and owner_id not in self.owner_ids:
            raise Unseen(f"the token does not show the owner {owner_id!r}")
        return replace(self, owner_ids=frozenset([owner_id]))


@dataclass(frozen=True, slots=True)
class Reader:
    """Who asks. `expires` is a time of the wall clock; `token` tells tokens apart, and is none."""

    view: View
    scope: Collection[str]
    expires: float = float("inf")
    token: str | None = None

    def may(self, word: str) -> bool:
        return word in self.scope


# Where no key is set: only this machine can call.
ANYBODY = Reader(View(), (SEND, OPERATE))
