"""The ledger and the effects under any order of deliveries, crashes, outages and meddling, against a model."""

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection
from structlog.testing import capture_logs

from tests.afresh import forget
from tests.integration.interleaved import KINDS, Interleaved
from tests.integration.model import (
    FAULTS,
    GARBAGE,
    OFFSETS,
    SHOWN,
    Again,
    New,
    Write,
    batches,
    conversations,
    faults,
    first_batches,
    other,
)
from tests.service import Service
from worker import reconcile, redis_client
from worker.db import retry, side_effects
from worker.db.session import engine
from worker.hosts import bundled
from worker.redirects import State
from worker.redis_client import key

SETTINGS = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    # A machine that only checks finds the same each time; who works on it, something new.
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
    phases=(Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

copies = st.sampled_from(sorted(SHOWN))


class Interleavings(Interleaved):
    """Each step is what a process does, or somebody else: one may die anywhere between two, and another begin."""

    came_to_rest = 0

    # Producers.

    @initialize(batch=first_batches)
    def begin(self, batch: Sequence[New | Again]) -> None:
        """Of some examples Hypothesis leaves out whole rules: no example should be about nothing."""
        self.accept(batch)

    @rule(batch=batches, rung=st.sets(st.sampled_from(KINDS)))
    def deliver(self, batch: Sequence[New | Again], rung: Collection[str]) -> None:
        """Commit, and ring some kinds. The other rings were lost, or the process died before them."""
        self.accept(batch)
        for kind in sorted(rung):
            self.work(kind)

    @rule(batch=batches)
    def crash_before_the_commit(self, batch: Sequence[New | Again]) -> None:
        self.accept_and_crash(batch)

    # Workers.

    @rule(kind=st.sampled_from(KINDS), fault=faults, about=conversations)
    def drain(self, kind: str, fault: str | None, about: str) -> None:
        self.work(kind, partial(FAULTS[fault], about=about) if fault else None)

    @rule(kind=st.sampled_from(KINDS), batch=batches)
    def drain_and_deliver_meanwhile(self, kind: str, batch: Sequence[New | Again]) -> None:
        """After the states were read, and before they are written."""
        once = [batch]

        def meanwhile(write: Write, states: Sequence[State]) -> Mapping[str, Exception]:
            if once:
                self.accept(once.pop())
            return write(states)

        self.work(kind, meanwhile)

    @rule(fault=faults, about=conversations, times=st.integers(1, 3))
    def sweep(self, fault: str | None, about: str, times: int) -> None:
        """So often in a row, as if the waits of the policy had passed."""
        for _ in range(times):
            self.sql("UPDATE side_effects SET due_at = now() - interval '1 second' WHERE state = 'waiting'")
            for kind in side_effects.due(engine(), KINDS):
                self.work(kind, partial(FAULTS[fault], about=about) if fault else None)

    @rule(kind=copies, number=st.integers(1, 5))
    def write_late(self, kind: str, number: int) -> None:
        """What was read `number` writes ago."""
        self.work_late(kind, number)

    @rule(heard=st.booleans())
    def compare(self, heard: bool) -> None:
        self.turn(heard=heard)

    # Somebody else.

    @rule()
    def flushall(self) -> None:
        self.cache.flushall()
        self.meddled |= {("cache", conversation_id) for conversation_id in self.model.versions}

    @rule(kind=copies, conversation_id=conversations, offset=st.sampled_from(sorted(OFFSETS)))
    def overwrite(self, kind: str, conversation_id: str, offset: str) -> None:
        """With another destination."""
        if (state := self.model.states().get(conversation_id)) is None:
            return
        destination = other(state["destination"])
        told = {"destination": destination, "version": state["version"] + OFFSETS[offset]}
        told |= {"ai_enabled": True, "status": "active"} if destination == "ai" else {}
        told = {"ai_enabled": False, "status": "support_active"} | told
        if kind == "cache":
            self.cache.set(key(conversation_id), json.dumps(told))
        else:
            names = ", ".join(f"{name} = :{name}" for name in told)
            self.sql(f"UPDATE conversations SET {names} WHERE id = :id", id=conversation_id, **told)
        self.meddled.add((kind, conversation_id))

    @rule(conversation_id=conversations, held=st.sampled_from(GARBAGE))
    def spoil_a_key(self, conversation_id: str, held: str) -> None:
        self.cache.set(key(conversation_id), held)
        self.meddled.add(("cache", conversation_id))

    @rule(conversation_id=conversations)
    def give_a_key_another_type(self, conversation_id: str) -> None:
        self.cache.delete(key(conversation_id))
        self.cache.rpush(key(conversation_id), "not ours")
        self.meddled.add(("cache", conversation_id))

    @rule(conversation_id=conversations)
    def lose_a_record(self, conversation_id: str) -> None:
        self.sql("DELETE FROM conversations WHERE id = :id", id=conversation_id)
        self.meddled.add(("record", conversation_id))

    # What holds.

    @invariant()
    def each_committed_event_is_there_once(self) -> None:
        rows = self.sql("SELECT event_id, outcome FROM redirects")
        told = {identity: outcome.outcome for identity, outcome in self.model.told.items()}
        assert sorted((row["event_id"], row["outcome"]) for row in rows) == sorted(told.items())

    @invariant()
    def the_truth_is_the_last_decision(self) -> None:
        names = ("owner_id", "status", "ai_enabled", "destination", "version", "occurred_at", "event_id")
        rows = self.sql("SELECT * FROM conversation_states")
        assert {row["conversation_id"]: {name: row[name] for name in names} for row in rows} == self.model.states()

    @invariant()
    def what_no_row_names_is_up_to_date(self) -> None:
        """But for what somebody else has changed."""
        unknown, copies = self.behind() | self.meddled, self.copies()
        for conversation_id, state in self.model.states().items():
            if ("websocket", conversation_id) not in unknown:
                assert self.frames[conversation_id] == state["version"], ("websocket", conversation_id)
            for kind, names in SHOWN.items():
                if (kind, conversation_id) not in unknown:
                    expected = {name: state[name] for name in names}
                    assert copies[kind, conversation_id] == expected, (kind, conversation_id)

    def come_to_rest(self) -> None:
        """No more faults, and a person looks at what is dead: all copies agree, and nothing waits."""
        for conversation_id in self.model.versions:
            if self.cache.type(key(conversation_id)) == "list":
                self.cache.delete(key(conversation_id))
        for _ in range(10):
            retry.again(engine(), None, None)
            self.sweep(None, "", 1)
            turn = self.turn(heard=True)
            if not (turn.drifted or turn.more or self.behind()):
                break
        assert self.behind() == set()
        assert {(kind, each) for kind, each in self.meddled if each in self.model.versions} == set()
        self.what_no_row_names_is_up_to_date()

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else the machine has stopped, and has said why
            self.come_to_rest()
            Interleavings.came_to_rest += 1


@pytest.fixture
def watching(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """This process works for `service`; a connection to look at its database."""
    for name, url in {"DATABASE_URL": service.database_url, "REDIS_URL": service.redis_url}.items():
        monkeypatch.setenv(name, url)
    monkeypatch.setattr(redis_client, "TIMEOUT", 10.0)  # a slow machine is no outage
    monkeypatch.setattr(reconcile, "BUDGET", 0.05)  # a ring that nobody hears is not waited for
    forget()
    bundled._store.cache_clear()
    with service.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection
    forget()
    bundled._store.cache_clear()


@pytest.mark.slow
@pytest.mark.timeout(600)  # a failure is shrunk first, for five minutes at most
def test_whatever_happens_in_whatever_order_every_copy_comes_to_show_the_last_decision(
    service: Service, watching: Connection
) -> None:
    """After each step the truth is the last decision, and what no row names is up to date; in the end nothing waits."""

    class OfThisService(Interleavings):
        def __init__(self) -> None:
            super().__init__(service, watching)

    with capture_logs():
        run_state_machine_as_test(OfThisService, settings=SETTINGS)
    assert Interleavings.came_to_rest > SETTINGS.max_examples // 2


@pytest.mark.parametrize("version", ["1.5", "NaN", '"1e3"'])
def test_a_key_whose_version_is_no_whole_number_is_overwritten(
    service: Service, watching: Connection, version: str
) -> None:
    """It was not written by us. The comparison found it at each turn, and the fence let nothing in its place."""
    world = Interleavings(service, watching)
    world.accept([New("a", "sales", 0, 0, owned=False)])
    world.cache.set(key("a"), f'{{"version": {version}}}')

    world.work("cache")

    assert world.copies()["cache", "a"] == {
        "ai_enabled": False,
        "status": "support_active",
        "destination": "sales",
        "version": 1,
    }
