"""Accepting events: one transaction that moves the states, records the redirects and files the side effects."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Engine, RowMapping, text

from worker import events, redirects
from worker.db import rejected
from worker.db.borrowed import Borrowed
from worker.db.prepared import Prepared
from worker.db.repeats import asked, repeated
from worker.db.rows import Held, Rows
from worker.db.session import translated
from worker.errors import Permanent, Rejected
from worker.events import Received
from worker.failpoints import reach
from worker.redirects import Outcome, State

# The rows that one side effect names: large enough to amortise a row, small enough to redo after a crash.
GROUP = 200

# A row of version 0 is a lock on a conversation that has no state yet; _WRITE turns it into one, or _UNRESERVE removes
# it. Always in one order, or parallel batches deadlock. Each statement sees what was committed before it began, so what
# is read after the lock is what the transaction before us has written. All three are one way to the database and back.
_LOCK = Prepared(
    "lock_states",
    """
    INSERT INTO conversation_states (conversation_id, status, ai_enabled, destination, version, occurred_at, event_id)
    SELECT id, 'active', true, 'ai', 0, 'epoch', '' FROM unnest(:ids) AS id
    ON CONFLICT (conversation_id) DO NOTHING;
    SELECT count(*) FROM (
        SELECT FROM conversation_states WHERE conversation_id = ANY(:ids) ORDER BY conversation_id FOR UPDATE
    ) AS locked;
    SELECT clock_timestamp() AS clock, s.conversation_id AS held, s.owner_id AS held_owner, s.destination AS held_by,
        s.version AS held_version, s.occurred_at AS held_since, s.event_id AS held_event,
        r.event_id, r.conversation_id, r.destination, r.outcome, r.code, r.version, r.previous_status, r.status,
        r.owner_id, r.source, r.actor, r.reason, r.metadata, r.occurred_at
    FROM (SELECT * FROM conversation_states WHERE conversation_id = ANY(:ids)) AS s
        FULL JOIN (SELECT * FROM redirects WHERE event_id = ANY(:event_ids)) AS r ON false
    """,
    ids="text[]",
    event_ids="text[]",
)
_WRITE = Prepared(
    "write_states",
    """
    WITH moved AS (
        UPDATE conversation_states s
        SET owner_id = n.owner_id, status = n.status, ai_enabled = n.ai_enabled, destination = n.destination,
            version = n.version, occurred_at = n.occurred_at, event_id = n.event_id,
            updated_at = CASE WHEN (s.version, s.owner_id) IS DISTINCT FROM (n.version, n.owner_id)
                THEN now() ELSE s.updated_at END
        FROM json_populate_recordset(null::conversation_states, :states) n
        WHERE s.conversation_id = n.conversation_id AND s.conversation_id = ANY(:ids)
    ), recorded AS (
        INSERT INTO redirects SELECT * FROM json_populate_recordset(null::redirects, :redirects)
    ), kept AS (
        INSERT INTO rejected_events (id, source, code, error, body, conversation_id)
        SELECT id, source, code, error, body, conversation_id
        FROM json_populate_recordset(null::rejected_events, :rejected)
        ON CONFLICT (id) DO NOTHING
    )
    INSERT INTO side_effects (kind, conversation_ids)
    SELECT kind, conversation_ids FROM json_populate_recordset(null::side_effects, :effects)
    RETURNING id
    """,
    ids="text[]",
    states="json",
    redirects="json",
    rejected="json",
    effects="json",
)
_UNRESERVE = text("DELETE FROM conversation_states WHERE conversation_id = ANY(:ids) AND version = 0")


class Item(NamedTuple):
    """One event of a batch as it arrived, and what parsing made of it."""

    raw: object
    event: Received | Rejected


@dataclass(frozen=True)
class Accepted:
    """An outcome for each event, in the order given, and the ids of the side effects that were filed."""

    outcomes: list[Outcome]
    filed: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Ledger:
    """Accepts events for one catalogue of destinations. `max_clock_skew` is seconds; `kinds` are the side effects.

    `engine` may be a connection of the host application (worker/db/borrowed.py). `rows` are its own, which say who
    answers; None where the states alone do.
    """

    engine: Engine | Borrowed
    destinations: Collection[str]
    kinds: Sequence[str]
    max_clock_skew: float
    source: str = "redirect_conversation"
    rows: Rows | None = None

    def accept(self, raws: Sequence[object]) -> Accepted:
        """Apply `raws` (each a dict, or JSON as str or bytes) in one transaction of a constant number of statements.

        A bad event is rejected alone. Raises Transient when the database says no for now: nothing was written.
        """
        return self._accept([Item(raw, self._parse(raw)) for raw in raws])

    def look(self, ids: Collection[str]) -> Collection[str]:
        """Settle these conversations with the host's rows, without an event. Returns those that changed.

        Raises Transient or Permanent.
        """
        with translated(), self.engine.begin() as connection:
            return _Batch(self, connection, []).look(sorted(set(ids)))

    def _parse(self, raw: object) -> Received | Rejected:
        try:
            return events.parse(raw, self.destinations)
        except Rejected as refusal:
            return refusal

    def _accept(self, items: Sequence[Item]) -> Accepted:
        if not items:
            return Accepted([])
        try:
            with translated(), self.engine.begin() as connection:
                accepted = _Batch(self, connection, items).run()
                reach("before_commit")
        except Permanent as error:
            return self._isolate(items, error)
        return accepted

    def _isolate(self, items: Sequence[Item], error: Permanent) -> Accepted:
        """The database refused the data of some item: halve until it stands alone, and reject that one."""
        if len(items) == 1 and isinstance(items[0].event, Rejected):
            raise error
        if len(items) == 1:
            return self._accept([Item(items[0].raw, Rejected("malformed", f"the database refused it: {error}"))])
        middle = len(items) // 2
        first, second = self._accept(items[:middle]), self._accept(items[middle:])
        return Accepted(first.outcomes + second.outcomes, first.filed + second.filed)


class _Batch:
    """One transaction's work: lock, fold, write."""

    def __init__(self, ledger: Ledger, connection: Connection | Borrowed, items: Sequence[Item]) -> None:
        self.ledger, self.connection, self.items = ledger, connection, items
        self.before: dict[str, State | None] = {}
        self.after: dict[str, State] = {}
        self.known: dict[str, dict[str, Any]] = {}
        self.recorded: list[dict[str, Any]] = []
        self.rejected: list[dict[str, str | None]] = []
        self.held: Held | None = None

    def run(self) -> Accepted:
        wanted = [item.event for item in self.items if isinstance(item.event, Received)]
        ids = sorted({event.conversation_id for event in wanted})
        clock = self._lock(ids, [event.event_id for event in wanted]) if wanted else None
        outcomes = [self._outcome(item, clock, position) for position, item in enumerate(self.items)]
        return Accepted(outcomes, self._write(ids))

    def look(self, ids: list[str]) -> Collection[str]:
        self._lock(ids, [])
        self._write(ids)
        return self.after.keys()

    def _lock(self, ids: list[str], event_ids: list[str]) -> datetime:
        # The host's rows first: its own transaction may hold one already when it calls us.
        self.held = self.ledger.rows.lock(self.connection, ids) if self.ledger.rows else None
        rows = _LOCK.run(self.connection, ids=ids, event_ids=event_ids).mappings().all()
        self.before = {row["held"]: _state(row) for row in rows if row["held"] is not None}
        self.known = {row["event_id"]: dict(row) for row in rows if row["event_id"] is not None}
        clock: datetime = rows[0]["clock"]
        for event, state, outcome in self.held.settle(self.before, clock) if self.held else ():
            self.after[state.conversation_id] = state
            self._record(event, outcome, event.occurred_at or clock, clock)
        return clock

    def _outcome(self, item: Item, clock: datetime | None, position: int) -> Outcome:
        try:
            if isinstance(item.event, Rejected):
                raise item.event
            assert clock is not None
            # Events without a time of their own keep the order in which they were received.
            return self._decide(item.event, clock, clock + timedelta(microseconds=position))
        except Rejected as refusal:
            self.rejected.append(rejected.row(item.raw, refusal.code, refusal.error, self.ledger.source))
            return _refused(item, refusal)

    def _decide(self, event: Received, clock: datetime, received_at: datetime) -> Outcome:
        if (known := self.known.get(event.event_id)) is not None:
            return repeated(event, known)
        occurred_at = event.occurred_at or event.received_at or received_at
        _check_times(event, clock, self.ledger.max_clock_skew)
        state = self.after.get(event.conversation_id) or self.before[event.conversation_id]
        decide = self.held.decide if self.held else redirects.fold
        self.after[event.conversation_id], outcome = decide(state, event, occurred_at)
        self._record(event, outcome, occurred_at, received_at)
        return outcome

    def _record(self, event: Received, outcome: Outcome, occurred_at: datetime, received_at: datetime) -> None:
        row = asked(event) | {
            "outcome": outcome.outcome,
            "code": outcome.code,
            "version": outcome.version,
            "previous_status": outcome.previous_status,
            "status": outcome.status,
            "occurred_at": occurred_at,
            "received_at": received_at,
        }
        self.known[event.event_id] = row
        self.recorded.append(row)

    def _write(self, ids: list[str]) -> list[int]:
        changed = [c for c, state in sorted(self.after.items()) if redirects.copies_differ(self.before[c], state)]
        groups = [changed[start : start + GROUP] for start in range(0, len(changed), GROUP)]
        effects = [{"kind": kind, "conversation_ids": group} for kind in self.ledger.kinds for group in groups]
        documents = {
            "states": _json(state.as_dict() for c, state in self.after.items() if state != self.before[c]),
            "redirects": _json(self.recorded),
            "rejected": _json(self.rejected),
            "effects": _json(effects),
        }
        filed = list(_WRITE.run(self.connection, ids=ids, **documents).scalars())
        if self.held:
            self.held.write(self.after, changed)
        if unfilled := [c for c in ids if self.before[c] is None and c not in self.after]:
            self.connection.execute(_UNRESERVE, {"ids": unfilled})
        return filed


def _check_times(event: Received, clock: datetime, max_clock_skew: float) -> None:
    if event.expires_at is not None and event.expires_at <= clock:
        raise Rejected("expired", f"expires_at should be after the time of receipt, {clock.isoformat()}")
    told = event.occurred_at or event.received_at
    if told is not None and told - clock > timedelta(seconds=max_clock_skew):
        raise Rejected(
            "clock_skew",
            f"occurred_at should be at most {max_clock_skew:g} s ahead of {clock.isoformat()}: "
            "it would win over every later decision",
        )


def _refused(item: Item, refusal: Rejected) -> Outcome:
    event = item.event if isinstance(item.event, Received) else item.raw
    names = [getattr(event, key, None) or (event.get(key) if isinstance(event, dict) else None) for key in _IDENTITY]
    event_id, conversation_id, destination = (name if isinstance(name, str) else None for name in names)
    return Outcome(event_id, conversation_id, "rejected", refusal.code, None, None, None, destination)


_IDENTITY = ("event_id", "conversation_id", "destination")


def _state(row: RowMapping) -> State | None:
    names = ("held", "held_owner", "held_by", "held_version", "held_since", "held_event")
    return State(*(row[name] for name in names)) if row["held_version"] else None


def _json(rows: Iterable[dict[str, Any]]) -> str:
    document = list(rows)
    try:
        return orjson.dumps(document).decode()
    except TypeError:  # metadata with an integer of more than 64 bits
        return json.dumps(document, default=datetime.isoformat, ensure_ascii=False)
