"""The host's table `message_conversation`, and what is watched after a redirect: in the ledger's own transaction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import uuid4

import orjson
from sqlalchemy import Connection, text

from config.settings import settings
from worker.db.borrowed import Borrowed
from worker.db.rows import Found
from worker.errors import Rejected
from worker.events import Actor, Received
from worker.hosts.pilito.judge import CLOSED, Guard, destination_of, judge
from worker.redirects import AI, Outcome, State, fold

# NO KEY: a message that is being saved refers to its conversation, and must not wait for us.
_LOCK = text("""
    SELECT id, status, CAST(user_id AS text) AS owner_id, updated_at FROM message_conversation
    WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE
""")
_GUARDS = text("""
    SELECT conversation_id, version, before, since, due_at, reasserted FROM guards WHERE conversation_id = ANY(:ids)
""")
# The host lists conversations by updated_at.
_WRITE = text("""
    UPDATE message_conversation c SET status = n.status, updated_at = now()
    FROM unnest(CAST(:ids AS text[]), CAST(:statuses AS text[])) AS n (id, status)
    WHERE c.id = n.id AND c.status <> n.status
""")
_WATCH = text("""
    INSERT INTO guards SELECT * FROM json_populate_recordset(null::guards, CAST(:guards AS json))
    ON CONFLICT (conversation_id) DO UPDATE SET version = excluded.version, before = excluded.before,
        since = excluded.since, due_at = excluded.due_at, reasserted = excluded.reasserted
""")
_FORGET = text("DELETE FROM guards WHERE conversation_id = ANY(:ids)")

REASSERTED, EXTERNAL = "reasserted", "external_change"


@dataclass(frozen=True)
class Row:
    """One conversation of the host. `updated_at` is when anything of it was saved last."""

    status: str
    owner_id: str
    updated_at: datetime


class PilitoRows:
    """Rows of worker/db/rows.py: only `status` and `updated_at` are ever written, and none is inserted."""

    def lock(self, connection: Connection | Borrowed, ids: Sequence[str]) -> "HeldRows":
        rows = connection.execute(_LOCK, {"ids": list(ids)}).all()
        guards = connection.execute(_GUARDS, {"ids": list(ids)}).all()
        held = {row.id: Row(row.status, row.owner_id, row.updated_at) for row in rows}
        return HeldRows(connection, held, {guard.conversation_id: Guard(**guard._mapping) for guard in guards})


@dataclass
class HeldRows:
    """The locked rows. `wanted` is the status that each is to have; `decided` are those of which an event says so."""

    connection: Connection | Borrowed
    rows: Mapping[str, Row]
    guards: dict[str, Guard]
    wanted: dict[str, str] = field(default_factory=dict)
    decided: set[str] = field(default_factory=set)
    changed: dict[str, Guard | None] = field(default_factory=dict)
    clock: datetime | None = None

    def settle(self, states: Mapping[str, State | None], clock: datetime) -> Iterator[Found]:
        self.clock = clock
        for conversation_id, row in self.rows.items():
            state = states.get(conversation_id)
            if state is not None:
                yield from self._settle(row, state, clock)

    def _settle(self, row: Row, state: State, clock: datetime) -> Iterator[Found]:
        guard = self.guards.get(state.conversation_id)
        if guard is not None and guard.version != state.version:
            guard = self._watch(state.conversation_id, None)  # of a decision that holds no longer
        match judge(row.status, state, guard):
            case "write":
                self.wanted[state.conversation_id] = state.status
                self._watch(state.conversation_id, self._new(state, row.status))
                return
            case "reassert":
                assert guard is not None
                self.wanted[state.conversation_id] = state.status
                guard = self._watch(state.conversation_id, replace(guard, reasserted=True))
                yield _found(state, row, "noop", REASSERTED, state.status)
            case "adopt":
                guard = self._watch(state.conversation_id, None)
                moved = replace(state, destination=destination_of(row.status), version=state.version + 1)
                moved = replace(moved, event_id=_event_id(EXTERNAL, moved))
                yield _found(moved, row, "applied", EXTERNAL, state.status)
            case "closed":
                guard = self._watch(state.conversation_id, None)
                yield _found(state, row, "noop", EXTERNAL, state.status)
        if guard is not None and guard.due_at is not None and guard.due_at <= clock:
            due = guard.next(clock)
            self._watch(state.conversation_id, replace(guard, due_at=due) if due else None)

    def decide(self, state: State | None, event: Received, occurred_at: datetime) -> tuple[State, Outcome]:
        row = self.rows.get(event.conversation_id)
        if row is None:
            return fold(state, event, occurred_at)
        if event.owner_id is not None and event.owner_id != row.owner_id:
            raise Rejected("owner_mismatch", f"owner_id should be that of conversation {event.conversation_id!r}")
        owned = event.model_copy(update={"owner_id": row.owner_id})
        if row.status == CLOSED and not _reopens(event):
            return _closed(state, owned, occurred_at)
        after, outcome = fold(state and replace(state, owner_id=row.owner_id), owned, occurred_at)
        if outcome.outcome != "superseded":
            self.wanted[event.conversation_id] = after.status
            self.decided.add(event.conversation_id)
        return after, replace(outcome, previous_status=row.status)

    def write(self, states: Mapping[str, State], moved: Sequence[str]) -> None:
        again = [name for name in self.decided if self.wanted[name] != self.rows[name].status]
        for conversation_id in {*moved, *again}:
            self._guard(states[conversation_id])
        if self.wanted:
            self.connection.execute(_WRITE, {"ids": [*self.wanted], "statuses": [*self.wanted.values()]})
        if gone := [conversation_id for conversation_id, guard in self.changed.items() if guard is None]:
            self.connection.execute(_FORGET, {"ids": gone})
        if watched := [vars(guard) for guard in self.changed.values() if guard is not None]:
            self.connection.execute(_WATCH, {"guards": orjson.dumps(watched).decode()})

    def _guard(self, state: State) -> None:
        """Watch a redirect to people; and one of a conversation that the host has not saved yet, until it has."""
        assert self.clock is not None
        row = self.rows.get(state.conversation_id)
        if row is None:
            self._watch(state.conversation_id, Guard(state.conversation_id, state.version, None, self.clock, None))
        else:
            decided = self.wanted.get(state.conversation_id) == state.status
            self._watch(state.conversation_id, self._new(state, row.status) if decided else None)

    def _new(self, state: State, before: str) -> Guard | None:
        """What watches a redirect to people. One to the AI is undone by nobody who does not mean it."""
        if self.clock is None or state.destination == AI or not settings().guard:
            return None
        guard = Guard(state.conversation_id, state.version, before, self.clock, None)
        return replace(guard, due_at=guard.next(self.clock))

    def _watch(self, conversation_id: str, guard: Guard | None) -> Guard | None:
        self.changed[conversation_id] = guard
        return guard


def _reopens(event: Received) -> bool:
    return (event.metadata or {}).get("reopen") is True


def _closed(state: State | None, event: Received, occurred_at: datetime) -> tuple[State, Outcome]:
    """Nothing changes. A conversation of which nothing is known yet is taken for the AI's, as the host takes it."""
    name = event.conversation_id
    held = state or State(name, event.owner_id, AI, 1, occurred_at, event.event_id)
    outcome = Outcome(event.event_id, name, "noop", "closed", held.version, CLOSED, CLOSED, event.destination)
    return held, outcome


def _found(state: State, row: Row, outcome: str, code: str, previous: str) -> Found:
    event_id = _event_id(code, state)
    event = Received.model_construct(
        event_id=event_id,
        conversation_id=state.conversation_id,
        destination=state.destination,
        occurred_at=row.updated_at,
        owner_id=state.owner_id,
        source="pilito",
        actor=Actor(type="system", id="pilito"),
    )
    shown = state.status if code == REASSERTED else row.status
    told = Outcome(event_id, state.conversation_id, outcome, code, state.version, previous, shown, state.destination)
    return Found(event, state, told)


def _event_id(code: str, state: State) -> str:
    """Nobody's else: a producer may choose any id, and one that is taken would stop us."""
    return f"{code}:{state.conversation_id}:{state.version}:{uuid4()}"
