"""Which rows the ledger locks, in which order, and which it writes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy import event as sqlalchemy_event

from tests.eventually import eventually
from tests.integration.ledgers import event, ledger_of
from tests.service import Service
from worker.db import inbox
from worker.db.inbox import Wanted
from worker.db.ledger import Ledger
from worker.db.session import make_engine

NINE, TEN, ELEVEN = (f"2026-01-15T{hour:02}:00:00Z" for hour in (9, 10, 11))
BLOCKED = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def ledger(service: Service) -> Ledger:
    return ledger_of(service)


@contextmanager
def planned(service: Service, *without: str) -> Iterator[Engine]:
    """Connections whose planner finds rows in one way only."""
    engine = make_engine(service.database_url)

    def restrict(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            for way in without:
                cursor.execute(f"SET enable_{way} = off")
        connection.commit()

    sqlalchemy_event.listen(engine, "connect", restrict)
    try:
        yield engine
    finally:
        engine.dispose()


def test_invariant_3_batches_lock_in_one_order_however_postgresql_finds_the_rows(service: Service) -> None:
    """One finds them by the index, one as they lie in the table, which is backwards: no deadlock.

    A small batch and a large one are planned like this. Both pile up behind the conversation in the middle; when it is
    free, each would hold what the other needs if locks were taken in the order in which the rows are found.
    """
    ledger = ledger_of(service)
    for name in "zma":
        ledger.accept([event(f"e-{name}", conversation_id=name)])
    batches = [[event(f"{n}-{name}", "ai", conversation_id=name) for name in "amz"] for n in range(2)]

    with (
        planned(service, "seqscan", "bitmapscan") as by_index,
        planned(service, "indexscan", "bitmapscan", "indexonlyscan") as as_they_lie,
        ThreadPoolExecutor(2) as pool,
        service.engine.connect() as holder,
    ):
        holder.execute(text("SELECT FROM conversation_states WHERE conversation_id = 'm' FOR UPDATE"))
        ledgers = [replace(ledger, engine=engine) for engine in (by_index, as_they_lie)]
        done = [pool.submit(each.accept, batch) for each, batch in zip(ledgers, batches, strict=True)]
        eventually(lambda: len(service.rows(BLOCKED)) == 2)
        holder.rollback()

    assert [future.exception() for future in done] == [None, None]


def row(service: Service) -> dict[str, Any]:
    """The state, and the transaction that wrote it."""
    (found,) = service.rows("SELECT *, xmin::text AS writer FROM conversation_states")
    return found


@pytest.mark.parametrize(
    "late",
    [event("e1", "ai", occurred_at=NINE), event("e2", occurred_at=TEN)],
    ids=["superseded", "repeated"],
)
def test_what_changes_nothing_writes_nothing(service: Service, ledger: Ledger, late: dict[str, Any]) -> None:
    """The row of the conversation is the one that the last decision wrote, to the last column."""
    ledger.accept([event("e2", occurred_at=TEN)])
    before = row(service)

    ledger.accept([late])

    assert row(service) == before


def test_a_noop_moves_the_mark_and_not_the_time_of_change(service: Service, ledger: Ledger) -> None:
    """`updated_at` says since when people see what they see: since the version or the owner moved.

    The gateway's snapshot holds the conversations that moved last, and `redirect-worker show` says since when it is so.
    A no-op, however often a workflow repeats it, must not push others out of the one nor change the other. It moves the
    ordering mark, which is another matter.
    """
    ledger.accept([event("e1", occurred_at=NINE)])
    ledger.accept([event("other", conversation_id="c2", occurred_at=NINE)])
    before = service.state("c1") or {}

    ledger.accept([event("e2", occurred_at=TEN)])

    after = service.state("c1") or {}
    assert after.pop("occurred_at") > before.pop("occurred_at")
    assert (after.pop("event_id"), before.pop("event_id")) == ("e2", "e1")
    assert after == before
    assert [state["conversation_id"] for state in inbox.newest(service.engine, Wanted())] == ["c2", "c1"]


@pytest.mark.parametrize(
    "more",
    [event("e2", "ai", occurred_at=TEN), event("e0", occurred_at=NINE, owner_id="7")],
    ids=["applied", "an owner learned late"],
)
def test_what_people_see_changed_moves_the_time_of_change(
    service: Service, ledger: Ledger, more: dict[str, Any]
) -> None:
    """A new version, or an owner: both are news to every copy."""
    ledger.accept([event("e1", occurred_at=TEN)])
    before = service.state("c1") or {}

    ledger.accept([more])

    assert (service.state("c1") or {})["updated_at"] > before["updated_at"]
