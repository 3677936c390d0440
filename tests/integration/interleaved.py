"""A service whose processes are steps of this one: what workers do, what they leave behind, and what is seen of it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import sqlalchemy
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import Connection, text

from config.settings import DESTINATIONS
from tests.integration.model import SHOWN, Again, Crash, Fields, Model, New, Write, readable, version_of
from tests.service import Service
from worker import effects, redis_client
from worker.db.ledger import Ledger
from worker.db.session import engine
from worker.effects import Effect
from worker.hosts import bundled
from worker.policy import POLICIES
from worker.reconcile import Reconciler, Turn
from worker.redirects import State
from worker.redis_client import key
from worker.tasks.maintenance import MARKER

Copies = dict[tuple[str, str], Fields | None]
Fault = Callable[[Write, Sequence[State]], Mapping[str, Exception]]

KINDS = tuple(POLICIES)


class Interleaved(RuleBasedStateMachine):
    """One service from nothing, and the model of it. `connection` commits each statement."""

    def __init__(self, service: Service, connection: Connection) -> None:
        super().__init__()
        self.cache, self.connection = service.cache, connection
        self.ledger = Ledger(engine(), DESTINATIONS, KINDS, max_clock_skew=300)
        self.host = {effect.kind: effect for effect in bundled.HOST.effects}
        self.effects = {kind: Effect(kind, partial(self.write, kind), each.drifted) for kind, each in self.host.items()}
        self.model = Model()
        self.sent: list[Fields] = []
        self.fault: Fault | None = None
        # The newest version that a browser has seen, and what each writer of a kind has read.
        self.frames: Counter[str] = Counter()
        self.read: dict[str, list[Sequence[State]]] = {kind: [()] for kind in KINDS}
        # The copies that somebody else has changed, and nobody has compared since: of those nothing is known.
        self.meddled: set[tuple[str, str]] = set()
        self.cache.flushall()
        self.sql("TRUNCATE redirects, conversation_states, side_effects, rejected_events, conversations")
        self.sql("UPDATE reconciliation SET marker = 0, after = '', whole = false, recent = now(), pending = '{}'")

    # Producers.

    def accept(self, batch: Sequence[New | Again]) -> None:
        events = self._said(batch)
        self.model.commit(events, self.ledger.accept(events).outcomes)

    def accept_and_crash(self, batch: Sequence[New | Again]) -> None:
        """Before the commit: nothing of it is there."""

        def crash(_: object) -> None:
            raise Crash

        sqlalchemy.event.listen(engine(), "commit", crash)
        try:
            with suppress(Crash):
                self.ledger.accept(self._said(batch))
        finally:
            sqlalchemy.event.remove(engine(), "commit", crash)

    def _said(self, batch: Sequence[New | Again]) -> list[Fields]:
        said: list[Fields] = []
        for each in batch:
            if isinstance(each, New):
                said.append(each.fields(len(self.sent)))
                self.sent.append(said[-1])
            elif self.sent:
                said.append(each.fields(self.sent))
        return said

    # Workers.

    def work(self, kind: str, fault: Fault | None = None) -> None:
        """Drain a kind. No copy goes back to an older version."""
        self.fault, before = fault, self.copies()
        with suppress(Crash):
            effects.drain(engine(), self.effects[kind])
        self.fault = None
        # No wait passes by itself, however slow the machine.
        self.sql("UPDATE side_effects SET due_at = now() + interval '1 h' WHERE state = 'waiting' AND due_at > now()")
        self.never_back(before)

    def work_late(self, kind: str, number: int) -> None:
        """A writer that has lost its connection, and the kind with it, wakes up: it writes what it had read."""
        read, before, states = self.read[kind][-number % len(self.read[kind])], self.copies(), self.model.states()
        self.host[kind].write(read)
        self.never_back(before)
        # Learning an owner gives no version, so no fence can know that it was learned.
        late = {each.conversation_id for each in read if each.owner_id != states[each.conversation_id]["owner_id"]}
        self.meddled |= {("record", conversation_id) for conversation_id in late}

    def write(self, kind: str, states: Sequence[State]) -> Mapping[str, Exception]:
        self.read[kind].append(states)
        write = self._publish if kind == "websocket" else self.host[kind].write
        return self.fault(write, states) if self.fault else write(states)

    def _publish(self, states: Sequence[State]) -> Mapping[str, Exception]:
        errors = self.host["websocket"].write(states)
        self.frames |= Counter({state.conversation_id: state.version for state in states})
        return errors

    def turn(self, *, heard: bool) -> Turn:
        """Compare. `heard`: a worker comes when it is rung."""

        def ring(kinds: list[str]) -> None:
            for kind in kinds if heard else ():
                self.work(kind)

        behind, ahead = self.behind(), self._ahead()
        exchange = partial(redis_client.exchange, MARKER)
        turn = Reconciler(engine(), list(self.effects.values()), exchange, ring).turn()
        assert turn is not None
        if turn.compared:
            self.model.versions.update(ahead)
            self.meddled &= behind
        return turn

    def _ahead(self) -> Counter[str]:
        """How many versions a turn adds to the truth to get above its copies (docs/decisions/0013)."""
        more: Counter[str] = Counter()
        behind = self.behind()
        for (kind, conversation_id), copy in self.copies().items():
            present = self.model.versions[conversation_id]
            version = version_of(copy, present)
            if version is not None and version > present and (kind, conversation_id) not in behind:
                more |= Counter({conversation_id: version + 1 - present})
        return more

    def never_back(self, before: Copies) -> None:
        after = self.copies()
        for (kind, conversation_id), copy in before.items():
            present = self.model.versions[conversation_id]
            was, now = version_of(copy, present), version_of(after[kind, conversation_id], present)
            assert was is None or (now is not None and now >= was), (kind, conversation_id, was, now)

    # Looking.

    def sql(self, statement: str, **values: object) -> list[Fields]:
        found = self.connection.execute(text(statement), values)
        return [dict(row) for row in found.mappings()] if found.returns_rows else []

    def behind(self) -> set[tuple[str, str]]:
        """The kinds and conversations that a row names, waiting or dead."""
        rows = self.sql("SELECT kind, conversation_ids FROM side_effects")
        return {(row["kind"], conversation_id) for row in rows for conversation_id in row["conversation_ids"]}

    def copies(self) -> Copies:
        """What each copy says; None where there is none."""
        ids = sorted(self.model.versions)
        held = self.cache.mget([key(each) for each in ids]) if ids else []
        rows = {row["id"]: row for row in self.sql("SELECT * FROM conversations")}
        records = {each: {name: rows[each][name] for name in SHOWN["record"]} for each in ids if each in rows}
        cached: Copies = {("cache", each): readable(value) for each, value in zip(ids, held, strict=True)}
        return cached | {("record", each): records.get(each) for each in ids}
