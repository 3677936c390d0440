"""What was dead and is written by a later redirect is forgotten; also where much is dead."""

from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy import event as sqlalchemy_event

from tests.integration.ledgers import execute, file_effect
from tests.service import Service
from worker.db import side_effects
from worker.db.session import STATEMENT_TIMEOUT_MS


@pytest.fixture
def connection(service: Service) -> Iterator[Connection]:
    with service.engine.connect() as connection:
        yield connection


def dead(service: Service, *conversation_ids: str, kind: str = "cache") -> int:
    return file_effect(service, *conversation_ids, kind=kind, state="dead", last_error="for good")


def named(service: Service) -> dict[int, list[str]]:
    return {row["id"]: row["conversation_ids"] for row in service.effects()}


def test_a_dead_row_loses_what_is_written_and_goes_with_its_last(service: Service, connection: Connection) -> None:
    """All of it written: deleted. A part: the rest stays, in its order. Nothing: untouched."""
    whole, part, none = dead(service, "a", "b"), dead(service, "z", "a", "c", "b", "y"), dead(service, "d", "e")
    one = dead(service, "b")

    side_effects.overtake(connection, "cache", ["x", "b", "a"])

    assert named(service) == {part: ["z", "c", "y"], none: ["d", "e"]}
    assert {whole, one}.isdisjoint(named(service))


def test_only_dead_rows_of_the_kind_are_overtaken(service: Service, connection: Connection) -> None:
    """What waits has a writer of its own, and another kind's copy is another copy."""
    gone = dead(service, "a")
    file_effect(service, "a", "b")
    dead(service, "a", "b", kind="record")
    before = [row for row in service.effects() if row["id"] != gone]

    side_effects.overtake(connection, "cache", ["a"])

    assert service.effects() == before


def test_what_overtaking_costs_does_not_multiply(service: Service, connection: Connection) -> None:
    """1,000 dead rows of 200 conversations and 20,000 written: a small part of the statement timeout, not all of it.

    Rows times conversations written took 0.22 s for 200, 2 s for 2,000, and never ended for 20,000.
    """
    execute(
        service,
        """INSERT INTO side_effects (kind, conversation_ids, state, last_error)
           SELECT 'cache', ARRAY(SELECT 'c' || n * 200 + m FROM generate_series(0, 199) AS m), 'dead', 'for good'
           FROM generate_series(0, 999) AS n""",
    )

    began = monotonic()
    side_effects.overtake(connection, "cache", [f"c{n}" for n in range(100, 20_100)])

    assert monotonic() - began < STATEMENT_TIMEOUT_MS / 1000 / 3
    first, *untouched, last = [row["conversation_ids"] for row in service.effects()]
    assert first == [f"c{n}" for n in range(100)]
    assert [len(ids) for ids in untouched] == [100] + [200] * 898
    assert last == [f"c{n}" for n in range(199_800, 200_000)]


def test_where_nothing_is_dead_nothing_is_compared(service: Service, connection: Connection) -> None:
    """One look at an index of nothing: this is asked in every round."""
    dead(service, "a", kind="record")
    said: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    sqlalchemy_event.listen(service.engine, "before_cursor_execute", hear)
    try:
        side_effects.overtake(connection, "cache", ["a"])
    finally:
        sqlalchemy_event.remove(service.engine, "before_cursor_execute", hear)

    assert [statement for statement in said if "PREPARE" not in statement] == ["EXECUTE any_dead_0 (%(kind)s)"]
