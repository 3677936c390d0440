"""A redirect in the transaction of an application: there for its next statement, and gone with its rollback."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from sqlalchemy import text

from tests.hosts.tables import conversation, ledger, row, status, told
from tests.integration.ledgers import event
from tests.service import Service
from worker import hosts
from worker.client import Rejected, apply_in
from worker.db import borrowed
from worker.errors import Transient
from worker.hosts import Host, bundled
from worker.hosts.pilito.rows import PilitoRows

PILITO = Host(bundled.HOST.cache, bundled.HOST.websocket, bundled.HOST.record, rows=PilitoRows())


@pytest.fixture(autouse=True)
def _pilito(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    """The host's rows, and no other setting than those of any application: no database, no broker, no Redis."""
    monkeypatch.setattr(hosts, "host", lambda: PILITO)
    monkeypatch.setattr("worker.in_transaction.host", lambda: PILITO)
    conversation(service, "c1")


@pytest.fixture
def connection(service: Service) -> Iterator[Any]:
    with closing(psycopg2.connect(service.database_url)) as connection:
        yield connection


def seen(connection: Any) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT status FROM message_conversation WHERE id = 'c1'")
        return str(cursor.fetchone()[0])


def test_the_next_statement_sees_it(service: Service, connection: Any) -> None:
    """And nobody else, until it is committed; then the copies are due."""
    paid = apply_in(connection, event("e1", "billing"))

    assert paid == {
        "redirected_to": "billing",
        "old_status": "active",
        "new_status": "support_active",
        "ai_enabled": False,
    }
    assert seen(connection) == "support_active"
    assert status(service, "c1") == "active"
    assert service.redirects() == []
    connection.commit()
    assert status(service, "c1") == "support_active"
    assert {effect["kind"] for effect in service.rows("SELECT kind FROM side_effects")} == {
        "cache",
        "websocket",
        "record",
    }


def test_a_rollback_takes_all_of_it_back(service: Service, connection: Any) -> None:
    apply_in(connection, event("e1", "billing"))
    connection.rollback()
    assert status(service, "c1") == "active"
    for table in ("redirects", "conversation_states", "side_effects", "guards"):
        assert service.rows(f"SELECT * FROM {table}") == []


def test_a_connection_of_sqlalchemy(service: Service) -> None:
    """Also as the first thing that is done with it."""
    with service.engine.connect() as connection:
        apply_in(connection, event("e1", "billing"))
        assert connection.scalar(text("SELECT status FROM message_conversation")) == "support_active"
        connection.commit()
    assert status(service, "c1") == "support_active"


def test_what_can_never_be_applied_is_said_and_kept(service: Service, connection: Any) -> None:
    """The application's transaction goes on."""
    with pytest.raises(Rejected) as refused:
        apply_in(connection, event("e1", "the moon"))
    assert refused.value.code == "unknown_destination"
    with pytest.raises(Rejected, match="kept"):
        apply_in(connection, event("e2", "billing", owner_id="8"))
    assert seen(connection) == "active"
    connection.commit()
    assert len(service.rows("SELECT * FROM rejected_events")) == 2


def test_what_the_database_refuses_fails_alone(service: Service, connection: Any) -> None:
    """An id with half a character comes this far, and no further."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE message_conversation SET priority = 5")
    with pytest.raises(Rejected):
        apply_in(connection, event("e1", "billing", reason="\ud800"))
    connection.commit()
    assert row(service, "c1")["priority"] == 5


def test_a_locked_row_is_waited_for_in_bounded_time(
    service: Service, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is Transient, the transaction goes on, and its own patience is what it was."""
    monkeypatch.setattr(borrowed, "LOCK_TIMEOUT_MS", 200)
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '7s'")
        with service.engine.begin() as other:
            other.execute(text("SELECT FROM message_conversation FOR UPDATE"))
            with pytest.raises(Transient, match="lock timeout"):
                apply_in(connection, event("e1", "billing"))
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("7s",)
    apply_in(connection, event("e1", "billing"))
    connection.commit()
    assert status(service, "c1") == "support_active"


def test_without_a_transaction_it_is_refused(connection: Any) -> None:
    connection.autocommit = True
    with pytest.raises(ValueError, match="autocommit"):
        apply_in(connection, event("e1", "billing"))
    with pytest.raises(TypeError, match="psycopg2"):
        apply_in(object(), event("e1", "billing"))


def test_a_repeated_event_where_json_is_left_as_text(service: Service, connection: Any) -> None:
    """As Django tells psycopg2 to: the second time it is the same event, and no conflict."""
    psycopg2.extras.register_default_jsonb(connection, loads=lambda text: text)
    asked = event("e1", "billing", actor={"type": "workflow", "id": "42"}, metadata={"order": 9917})
    first = apply_in(connection, asked)
    connection.commit()
    assert apply_in(connection, asked) == first
    connection.commit()
    assert told(service, "c1") == [("applied", None)]


def test_two_applications_at_once_take_their_turns(service: Service, connection: Any) -> None:
    """One holds the row already, as the workflow of a host does when it calls."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE message_conversation SET status = 'marketing_active'")
        paid = apply_in(connection, event("e1", "billing"))
    assert paid["old_status"] == "marketing_active"
    connection.commit()
    assert status(service, "c1") == "support_active"


def test_applications_and_workers_meet_without_a_deadlock(service: Service) -> None:
    """Both lock the row before the state: the one that holds the row when it calls, too."""
    conversation(service, "c2")

    def application(turn: int) -> None:
        with closing(psycopg2.connect(service.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE message_conversation SET priority = 2 WHERE id = 'c1'")
            apply_in(connection, event(f"a{turn}", "billing" if turn % 2 else "ai"))
            connection.commit()

    def worker(turn: int) -> None:
        ledger(service).accept([event(f"w{turn}-{name}", "sales", name) for name in ("c2", "c1")])

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(job, turn) for turn in range(30) for job in (application, worker)]
        for each in done:
            each.result(60)
    assert len(service.redirects()) == 90


def test_an_event_without_a_time_counts_from_now(service: Service, connection: Any) -> None:
    apply_in(connection, {"conversation_id": "c1", "destination": "billing"})
    connection.commit()
    [redirect] = service.redirects()
    assert redirect["event_id"]
    assert redirect["received_at"] == redirect["occurred_at"]
