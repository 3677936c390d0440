"""Statements that are planned once for each connection."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tests.integration.copies import Copies
from tests.integration.ledgers import event, execute
from tests.service import Service
from worker.db.ledger import Ledger
from worker.db.prepared import Prepared
from worker.db.session import make_engine
from worker.effects import Effect, Settled, drain
from worker.policy import POLICIES

DESTINATIONS = ("ai", "billing")


@pytest.fixture
def pooled(service: Service) -> Iterator[Engine]:
    """An engine that keeps its connections, as the service's own does."""
    engine = make_engine(service.database_url)
    yield engine
    engine.dispose()


def test_a_statement_is_planned_once_for_each_connection(pooled: Engine) -> None:
    """Its parts share the parameters, and the last one's rows are the answer."""
    said: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    sqlalchemy.event.listen(pooled, "before_cursor_execute", hear)
    double = Prepared("double", "SELECT :n; SELECT :n + :m::int", n="int", m="text")

    for n in (1, 2):
        with pooled.connect() as connection:
            assert double.run(connection, n=n, m="3").all() == [(n + 3,)]

    assert [statement.split("_")[0] for statement in said] == ["PREPARE double", "EXECUTE double", "EXECUTE double"]


def test_a_statement_that_cannot_be_planned_is_planned_again(service: Service, pooled: Engine) -> None:
    """The migration has not run yet: once it has, nothing of the first try is in the way."""
    late = Prepared("late", "SELECT 1; SELECT n FROM late")

    with pytest.raises(DBAPIError, match="does not exist"), pooled.connect() as connection:
        late.run(connection)
    execute(service, "CREATE TABLE late (n int)", "INSERT INTO late VALUES (7)")

    with pooled.connect() as connection:
        assert late.run(connection).scalar() == 7


def test_what_is_planned_goes_on_when_a_migration_adds_a_column(service: Service, pooled: Engine) -> None:
    """Workers of the old release run on the new schema: no plan of theirs may be refused from then on."""
    ledger = Ledger(pooled, DESTINATIONS, tuple(POLICIES), max_clock_skew=300)
    copies = Copies()

    for n, destination in enumerate(["billing", "ai", "billing"]):
        ledger.accept([event(f"e{n}", destination), event("again", destination, "c2")])
        assert drain(pooled, Effect("cache", copies.write)) == Settled(written=2 if n == 0 else 1)
        for table in ("conversation_states", "redirects", "side_effects", "rejected_events"):
            execute(service, f"ALTER TABLE {table} ADD COLUMN new{n} text")

    assert copies.shown["c1"].version == 3
