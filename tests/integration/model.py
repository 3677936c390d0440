"""What should be true of conversations, in a few lines of Python, and what may go wrong while a copy is written."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from config.settings import DESTINATIONS
from tests.integration.ledgers import event
from worker.errors import Permanent, Transient
from worker.redirects import FARTHEST, Outcome, State

Fields = dict[str, Any]
Write = Callable[[Sequence[State]], Mapping[str, Exception]]

# Few conversations and few times, so that batches meet, and decisions of one moment are common. Recent, because the
# key of a conversation of the AI's may be gone a day after its decision.
CONVERSATIONS = ("a", "b")
RECENTLY = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


class Crash(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class New:
    """An event that was not sent before. `rank` is what its id begins with: of two of one moment, any may win."""

    conversation_id: str
    destination: str
    second: int
    rank: int
    owned: bool

    def fields(self, number: int) -> Fields:
        owner = {"owner_id": f"owner of {self.conversation_id}"} if self.owned else {}
        at = (RECENTLY + timedelta(seconds=self.second)).isoformat()
        return event(f"{self.rank}-{number}", self.destination, self.conversation_id, occurred_at=at, **owner)


@dataclass(frozen=True)
class Again:
    """An event that was sent, whether or not it was committed; `changed`: it says something else now."""

    number: int
    changed: bool

    def fields(self, sent: Sequence[Fields]) -> Fields:
        said = sent[self.number % len(sent)]
        return said | {"destination": other(said["destination"])} if self.changed else said


def other(destination: str) -> str:
    return "sales" if destination != "sales" else "ai"


@dataclass
class Model:
    """The committed events by id, the first outcome of each, and the version of each conversation."""

    events: dict[str, Fields] = field(default_factory=dict)
    told: dict[str, Outcome] = field(default_factory=dict)
    versions: Counter[str] = field(default_factory=Counter)

    def commit(self, events: Sequence[Fields], outcomes: Sequence[Outcome]) -> None:
        for said, outcome in zip(events, outcomes, strict=True):
            identity = said["event_id"]
            if identity not in self.events:
                assert outcome.outcome in {"applied", "noop", "superseded"}
                self.events[identity], self.told[identity] = said, outcome
                self.versions[said["conversation_id"]] += outcome.outcome == "applied"
            elif self.events[identity] == said:
                assert outcome == self.told[identity]
            else:
                assert (outcome.outcome, outcome.code) == ("rejected", "conflict")

    def states(self) -> dict[str, Fields]:
        return {conversation_id: self._state(conversation_id) for conversation_id in sorted(self.versions)}

    def _state(self, conversation_id: str) -> Fields:
        """The last decision wins, whatever the order of arrival."""
        mine = [said for said in self.events.values() if said["conversation_id"] == conversation_id]
        last = max(mine, key=lambda said: (said["occurred_at"], said["event_id"]))
        ai = last["destination"] == "ai"
        return {
            "owner_id": next((said["owner_id"] for said in mine if "owner_id" in said), None),
            "status": "active" if ai else "support_active",
            "ai_enabled": ai,
            "destination": last["destination"],
            "version": self.versions[conversation_id],
            "occurred_at": datetime.fromisoformat(last["occurred_at"]),
            "event_id": last["event_id"],
        }


# What each copy shows of a state.
SHOWN = {
    "cache": ("ai_enabled", "status", "destination", "version"),
    "record": ("owner_id", "status", "ai_enabled", "destination", "version"),
}


def readable(held: str | bytes | None) -> Any:
    """What a key's value says; None where it is not JSON."""
    try:
        return json.loads(held or "null")
    except ValueError:
        return None


def version_of(copy: Any, present: int) -> int | None:
    """The version that a copy shows, if it could be ours."""
    version = copy.get("version") if isinstance(copy, dict) else None
    return version if type(version) is int and abs(version - present) <= FARTHEST else None


# What may become of a write: the real one, the states, and the conversation that it goes wrong with.


def _gone(write: Write, states: Sequence[State], about: str) -> Mapping[str, Exception]:
    raise Transient("gone")


def _busy(write: Write, states: Sequence[State], about: str) -> Mapping[str, Exception]:
    errors = dict(write([state for state in states if state.conversation_id != about]))
    return errors | {id_: Transient("busy") for state in states if (id_ := state.conversation_id) == about}


def _refused(write: Write, states: Sequence[State], about: str) -> Mapping[str, Exception]:
    if about in {state.conversation_id for state in states}:
        raise Permanent("it does not fit")
    return write(states)


def _busy_and_refused(write: Write, states: Sequence[State], about: str) -> Mapping[str, Exception]:
    busy, refused = Transient("busy"), Permanent("it does not fit")
    return {each.conversation_id: busy if each.conversation_id == about else refused for each in states}


def _killed_before(write: Write, states: Sequence[State], about: str) -> Mapping[str, Exception]:
    raise Crash


def _killed_after(write: Write, states: Sequence[State], about: str) -> Mapping[str, Exception]:
    write(states)
    raise Crash


FAULTS = {
    "gone": _gone,
    "busy": _busy,
    "refused": _refused,
    "busy and refused": _busy_and_refused,
    "killed before": _killed_before,
    "killed after": _killed_after,
}
# What somebody else may leave in place of a copy: one of ours with so many versions more, or none of ours.
OFFSETS = {"older": -1, "other words": 0, "ahead": 3}
GARBAGE = ("not ours", "[]", "{}", '{"version": null}', '{"version": 1.5}', '{"version": NaN}', '{"version": 1e15}')

conversations = st.sampled_from(CONVERSATIONS)
faults = st.none() | st.sampled_from(sorted(FAULTS))
_new = st.builds(
    New, conversations, st.sampled_from(sorted(DESTINATIONS)), st.integers(0, 4), st.integers(0, 9), st.booleans()
)
_again = st.builds(Again, st.integers(0, 50), st.booleans())
batches = st.lists(_new | _new | _again, min_size=1, max_size=4)
first_batches = st.lists(_new, min_size=1, max_size=4)
