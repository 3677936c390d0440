"""The ledger under load, races and faults: real connections, real locks, real kills."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy import event as sqlalchemy_event

from tests.eventually import eventually
from tests.integration.ledgers import event, execute, gaps, ledger_of
from tests.service import Service
from worker.db.ledger import Ledger
from worker.db.session import make_engine
from worker.errors import Transient

DESTINATIONS = ("ai", "billing")
ROUNDS = 15
HOLD_KNOWN = "SELECT FROM conversation_states WHERE conversation_id = 'm' FOR UPDATE"
HOLD_NEW = """
    INSERT INTO conversation_states (conversation_id, status, ai_enabled, destination, version, occurred_at, event_id)
    VALUES ('m', 'active', true, 'ai', 0, 'epoch', '')"""
BLOCKED = """
    SELECT count(*) AS blocked FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'"""


@pytest.fixture
def ledger(service: Service) -> Ledger:
    return ledger_of(service)


@contextmanager
def watched(ledger: Ledger, name: str, heard: Callable[..., None]) -> Iterator[None]:
    """Call `heard` on SQLAlchemy's event `name` of this ledger's engine."""
    sqlalchemy_event.listen(ledger.engine, name, heard)
    try:
        yield
    finally:
        sqlalchemy_event.remove(ledger.engine, name, heard)


def statements(ledger: Ledger, raws: list[Any]) -> list[str]:
    """What the ledger says to PostgreSQL to accept these."""
    said: list[str] = []
    with watched(ledger, "before_cursor_execute", lambda _c, _cursor, statement, *_: said.append(statement)):
        ledger.accept(raws)
    return said


def everything(service: Service) -> dict[str, list[dict[str, Any]]]:
    tables = ("conversation_states", "redirects", "side_effects", "rejected_events")
    return {table: service.rows(f"SELECT * FROM {table} ORDER BY 1") for table in tables}


def test_invariant_3_ten_thousand_events_for_one_conversation(service: Service, ledger: Ledger) -> None:
    """One call: every event applied in turn, version 10,000, one side effect of each kind."""
    outcomes = ledger.accept([event(f"e{n}", DESTINATIONS[n % 2]) for n in range(10_000)]).outcomes

    assert [outcome.version for outcome in outcomes] == list(range(1, 10_001))
    assert (service.state("c1") or {})["version"] == 10_000
    assert gaps(service) == []
    assert [row["conversation_ids"] for row in service.effects()] == [["c1"]] * 3


def test_ten_thousand_conversations_are_grouped(service: Service, ledger: Ledger) -> None:
    """One call: side effects that name 200 conversations each, every conversation once per kind."""
    accepted = ledger.accept([event(f"e{n}", conversation_id=f"c{n}") for n in range(10_000)])

    assert {outcome.outcome for outcome in accepted.outcomes} == {"applied"}
    effects = service.effects()
    assert [len(row["conversation_ids"]) for row in effects] == [200] * 150
    for kind in ("cache", "websocket", "record"):
        named = [name for row in effects if row["kind"] == kind for name in row["conversation_ids"]]
        assert sorted(named) == sorted(f"c{n}" for n in range(10_000))


@pytest.mark.parametrize("more", [{}, {"expires_at": "2020-01-01T00:00:00Z"}], ids=["applied", "rejected"])
def test_the_number_of_statements_does_not_grow_with_the_list(ledger: Ledger, more: dict[str, Any]) -> None:
    """One event or five hundred, of as many conversations: the same few statements."""
    one = statements(ledger, [event("e", conversation_id="c", **more)])
    many = statements(ledger, [event(f"e{n}", conversation_id=f"c{n}", **more) for n in range(500)])

    assert many == one
    assert len(one) < 10


def race(*contestants: Callable[[int], None]) -> None:
    """Run them at once, round after round, each round from one line; the first error of any ends the test."""
    line = threading.Barrier(len(contestants))

    def run(contestant: Callable[[int], None]) -> None:
        try:
            for number in range(ROUNDS):
                line.wait(timeout=30)
                contestant(number)
        except BaseException:
            line.abort()
            raise

    with ThreadPoolExecutor(len(contestants)) as pool:
        done = [pool.submit(run, contestant) for contestant in contestants]
    errors = [error for future in done if (error := future.exception())]
    assert [error for error in errors if not isinstance(error, threading.BrokenBarrierError)] == []


def test_invariant_3_overlapping_batches_in_opposite_order_never_deadlock(service: Service) -> None:
    """Two connections, old and new conversations, one forwards and one backwards: no error, versions without a gap."""
    engine = make_engine(service.database_url)
    ledger = replace(ledger_of(service), engine=engine)

    def batches(name: str, step: int) -> Callable[[int], None]:
        def accept(number: int) -> None:
            room = [f"old-{n}" for n in range(40)] + [f"new-{number}-{n}" for n in range(40)]
            ledger.accept(
                [
                    event(f"{name}-{number}-{n}", ("billing", "sales")[name == "b"], conversation_id=conversation)
                    for n, conversation in enumerate(room[::step])
                ]
            )

        return accept

    race(batches("a", 1), batches("b", -1))
    engine.dispose()

    assert len(service.redirects()) == 2 * 80 * ROUNDS
    assert gaps(service) == []
    moved = service.rows("SELECT sum(version) AS versions FROM conversation_states WHERE conversation_id LIKE 'new-%'")
    assert moved == [{"versions": 2 * 40 * ROUNDS}]


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_invariant_3_batches_lock_in_one_order_however_they_are_listed(service: Service, known: bool) -> None:
    """Two opposite batches pile up behind the conversation in the middle; when it is free, both go through."""
    engine = make_engine(service.database_url)
    ledger = replace(ledger_of(service), engine=engine)
    names = ["a", "m", "z"]
    if known:
        ledger.accept([event(f"e-{name}", conversation_id=name) for name in names])
    batches = [
        [event(f"{n}-{name}", "ai", conversation_id=name) for name in names[::step]] for n, step in enumerate((1, -1))
    ]

    with ThreadPoolExecutor(2) as pool, service.engine.connect() as holder:
        holder.execute(text(HOLD_KNOWN if known else HOLD_NEW))
        done = [pool.submit(ledger.accept, batch) for batch in batches]
        eventually(lambda: service.rows(BLOCKED) == [{"blocked": 2}])
        holder.rollback()
    engine.dispose()

    assert [future.exception() for future in done] == [None, None]
    assert gaps(service) == []


def test_invariant_2_the_same_events_at_once_are_applied_once(service: Service) -> None:
    """Four deliveries of one batch at the same time, of new conversations each round: one of them is the first."""
    engine = make_engine(service.database_url)
    ledger = replace(ledger_of(service), engine=engine)
    told: list[list[tuple[str | None, str, int | None]]] = []

    def deliver(number: int) -> None:
        batch = [event(f"e-{number}-{n}", conversation_id=f"c-{number}-{n}") for n in range(10)]
        accepted = ledger.accept(batch)
        told.append([(outcome.event_id, outcome.outcome, outcome.version) for outcome in accepted.outcomes])

    race(*[deliver] * 4)
    engine.dispose()

    assert len(service.redirects()) == len(service.rows("SELECT FROM conversation_states WHERE version = 1"))
    assert len(service.redirects()) == 10 * ROUNDS
    assert len({tuple(outcomes) for outcomes in told}) == ROUNDS
    assert {outcome for outcomes in told for _, outcome, _ in outcomes} == {"applied"}


def kill(service: Service, victim: Connection) -> None:
    """End the server's side of this connection, and see it gone."""
    pid = victim.connection.dbapi_connection.get_backend_pid()  # type: ignore[union-attr]
    with service.engine.connect() as killer:
        assert killer.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


@pytest.mark.parametrize("moment", ["lock", "write", "commit"])
def test_invariant_1_a_transaction_whose_backend_dies_leaves_nothing(service: Service, moment: str) -> None:
    """Killed at any moment up to its commit it raises Transient, wrote nothing, and the next try does it all."""
    engine = make_engine(service.database_url)
    ledger = replace(ledger_of(service), engine=engine)
    ledger.accept([event("e0", conversation_id="c0")])
    before = everything(service)
    batch = [event("e1"), event("e2", "mars"), event("e3", "ai", conversation_id="c0")]
    word = {"lock": "EXECUTE lock_states", "write": "EXECUTE write_states"}

    def at_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if word[moment] in statement:
            kill(service, connection)

    name, heard = (
        ("commit", lambda connection: kill(service, connection))
        if moment == "commit"
        else ("before_cursor_execute", at_statement)
    )
    with watched(ledger, name, heard), pytest.raises(Transient):
        ledger.accept(batch)

    assert everything(service) == before
    assert [outcome.outcome for outcome in ledger.accept(batch).outcomes] == ["applied", "rejected", "applied"]
    engine.dispose()


@pytest.mark.parametrize(
    "failing",
    [
        "deadlock_detected",
        "serialization_failure",
        "lock_not_available",
        "query_canceled",
        "disk_full",
        "unique_violation",
    ],
)
def test_invariant_1_what_passes_is_transient(service: Service, ledger: Ledger, failing: str) -> None:
    """An error that says nothing about the data rejects nobody: nothing is written, and the caller tries again."""
    execute(
        service,
        f"""CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{failing}'; END $$""",
        "CREATE TRIGGER fail BEFORE INSERT ON redirects FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    before = everything(service)

    with pytest.raises(Transient):
        ledger.accept([event("e1"), event("e2", "mars")])

    assert everything(service) == before
