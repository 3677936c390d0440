"""The inbox: which conversations, in which order, in pages, and what each is shown with."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import make_service
from tests.integration.ledgers import event, ledger_of
from tests.service import Service
from worker.db import inbox
from worker.db.inbox import Place, Wanted

OWNERS, DESTINATIONS = ("7", "8", None), ("ai", "billing", "sales")


@pytest.fixture(scope="module")
def filled(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A hundred conversations, many of which moved in the same moment."""
    service = make_service(servers, tmp_path_factory.mktemp("inbox"))
    chance = random.Random(1)
    ledger = ledger_of(service)
    for start in range(0, 100, 20):
        ledger.accept(
            [
                event(f"e{n}", chance.choice(DESTINATIONS), conversation_id=f"c{n}", owner_id=chance.choice(OWNERS))
                for n in range(start, start + 20)
            ]
        )
    return service


def states(service: Service) -> list[dict[str, Any]]:
    """All of them, in the order of the inbox, by another way."""
    rows = service.rows("SELECT * FROM conversation_states")
    return sorted(rows, key=lambda row: (row["updated_at"], row["conversation_id"]), reverse=True)


def paged(service: Service, wanted: Wanted, limit: int) -> Iterator[dict[str, Any]]:
    place = None
    while rows := inbox.newest(service.engine, wanted, place, limit):
        yield from rows
        place = Place(rows[-1]["updated_at"], rows[-1]["conversation_id"])


@pytest.mark.parametrize("limit", [1, 7, 200])
@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(),
        Wanted(owner_ids=["7"]),
        Wanted(owner_ids=["7", "8"]),
        Wanted(owner_ids=[]),
        Wanted(destination="billing"),
        Wanted(status="support_active"),
        Wanted(owner_ids=["8"], status="active"),
        Wanted(conversation_ids=["c1", "c2", "c99", "nobody"]),
        Wanted(owner_ids=["7"], conversation_ids=["c1", "c2", "c3", "c4", "c5"]),
        Wanted(destination="nowhere"),
    ],
    ids=str,
)
def test_every_page_holds_what_fits_and_no_conversation_is_left_out(
    filled: Service, wanted: Wanted, limit: int
) -> None:
    """The newest first, each once, also where pages end among conversations of one moment."""

    def fits(row: dict[str, Any]) -> bool:
        return (
            (wanted.owner_ids is None or row["owner_id"] in wanted.owner_ids)
            and (wanted.conversation_ids is None or row["conversation_id"] in wanted.conversation_ids)
            and wanted.destination in (None, row["destination"])
            and wanted.status in (None, row["status"])
        )

    assert list(paged(filled, wanted, limit)) == [row for row in states(filled) if fits(row)]


def test_only_what_moved_lately(service: Service) -> None:
    """By the database's clock, whatever ours says."""
    ledger_of(service).accept([event("e1", conversation_id="old"), event("e2", conversation_id="new")])
    with service.engine.begin() as connection:
        connection.execute(
            text("UPDATE conversation_states SET updated_at = now() - interval '1 h' WHERE conversation_id = 'old'")
        )
    assert [row["conversation_id"] for row in inbox.newest(service.engine, Wanted(within=60))] == ["new"]


def test_each_is_shown_with_what_put_it_there_and_what_is_not_there_yet(service: Service) -> None:
    """Why and by whom is that of the redirect that was applied, not of the no-op or the refusal after it."""
    ledger = ledger_of(service)
    actor = {"type": "user", "id": "ann"}
    ledger.accept([event("e1", "billing", reason="a refund", source="desk", actor=actor)])
    ledger.accept([event("e2", "billing", reason="once more")])
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM side_effects WHERE kind = 'cache'"))
        connection.execute(text("UPDATE side_effects SET state = 'dead', last_error = 'no' WHERE kind = 'record'"))
    (row,) = inbox.page(service.engine, Wanted())
    assert (row["reason"], row["source"], row["actor"]) == ("a refund", "desk", actor)
    assert (row["behind"], row["dead"]) == (["websocket"], ["record"])
    assert [one["conversation_id"] for one in inbox.page(service.engine, Wanted(behind=True))] == ["c1"]
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM side_effects"))
    assert inbox.page(service.engine, Wanted(behind=True)) == []


def test_a_page_reads_no_more_rows_than_it_shows(filled: Service) -> None:
    """Whatever the table holds: by index, without sorting it."""
    with filled.engine.connect() as connection:
        # As in a table of millions, where neither is worth it.
        connection.execute(text("SET enable_sort = off; SET enable_bitmapscan = off; ANALYZE conversation_states"))
        for wanted in (Wanted(), Wanted(owner_ids=["7"]), Wanted(destination="billing")):
            statement = inbox._statement(wanted)
            plan = connection.execute(
                text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"), inbox._values(wanted, None, 5)
            ).scalar_one()
            scans = [
                node for node in _nodes(plan[0]["Plan"]) if node.get("Alias") == "s" and "Scan" in node["Node Type"]
            ]
            assert scans
            assert all(node["Actual Rows"] <= 5 and node["Node Type"] != "Seq Scan" for node in scans), scans


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)
