"""The decision: what one event does to the state of one conversation. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.errors import Rejected
from worker.events import Event

AI = "ai"
# Versions: nobody is that far ahead of the truth, so a copy that says so was not written by us.
FARTHEST = 1_000_000


@dataclass(frozen=True, slots=True)
class State:
    """Who owns a conversation now: the truth that every copy follows.

    `version` grows by one for every applied redirect and is the fencing token of all copies.
    (`occurred_at`, `event_id`) is the ordering mark: the newest decision seen, applied or no-op.
    """

    conversation_id: str
    owner_id: str | None
    destination: str
    version: int
    occurred_at: datetime
    event_id: str

    @property
    def ai_enabled(self) -> bool:
        return self.destination == AI

    @property
    def status(self) -> str:
        return status_of(self.destination)

    def as_dict(self) -> dict[str, Any]:
        """What every copy shows of it, by the names of the contract; times as they are."""
        return {
            "conversation_id": self.conversation_id,
            "owner_id": self.owner_id,
            "status": self.status,
            "ai_enabled": self.ai_enabled,
            "destination": self.destination,
            "version": self.version,
            "event_id": self.event_id,
            "occurred_at": self.occurred_at,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event. `destination` is the one that was asked for; status and version are what holds now."""

    event_id: str | None
    conversation_id: str | None
    outcome: str
    code: str | None
    version: int | None
    previous_status: str | None
    status: str | None
    destination: str | None

    @property
    def ai_enabled(self) -> bool | None:
        return None if self.status is None else self.status == status_of(AI)

    def as_dict(self) -> dict[str, str | int | bool | None]:
        """The outcome of the contract, section 3.2."""
        return {name: getattr(self, name) for name in (*self.__slots__, "ai_enabled")}


def status_of(destination: str) -> str:
    """`active` while the AI answers, `support_active` while people do."""
    return "active" if destination == AI else "support_active"


def fold(state: State | None, event: Event, occurred_at: datetime) -> tuple[State, Outcome]:
    """The state after `event`, and its outcome: `applied`, `noop` or `superseded`.

    The last decision by (`occurred_at`, `event_id`) wins, whatever the order of arrival. A no-op moves the ordering
    mark too: otherwise an event that belongs before it would win when it arrives late. An owner that was not known
    yet is learned from any event, also a late one, so that the order of arrival leaves no trace.
    Raises Rejected (`owner_mismatch`) when the conversation is known to belong to someone else.
    """
    name, mark = event.conversation_id, (occurred_at, event.event_id)
    if state is None:
        first = State(name, event.owner_id, event.destination, 1, *mark)
        return first, _outcome(event, first, "applied", None, None)
    if state.owner_id and event.owner_id and state.owner_id != event.owner_id:
        raise Rejected("owner_mismatch", f"owner_id should be that of conversation {name!r}")
    owner = state.owner_id or event.owner_id
    if mark <= (state.occurred_at, state.event_id):
        held = State(name, owner, state.destination, state.version, state.occurred_at, state.event_id)
        return held, _outcome(event, held, "superseded", "stale", state.status)
    if event.destination == state.destination:
        marked = State(name, owner, state.destination, state.version, *mark)
        return marked, _outcome(event, marked, "noop", "same_destination", state.status)
    moved = State(name, owner, event.destination, state.version + 1, *mark)
    return moved, _outcome(event, moved, "applied", None, state.status)


def copies_differ(before: State | None, after: State) -> bool:
    """Whether any copy has something new to show."""
    return before is None or (before.version, before.owner_id) != (after.version, after.owner_id)


def _outcome(event: Event, state: State, outcome: str, code: str | None, previous: str | None) -> Outcome:
    return Outcome(
        event.event_id, event.conversation_id, outcome, code, state.version, previous, state.status, event.destination
    )
