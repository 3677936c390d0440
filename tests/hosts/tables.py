"""The host's table as its owner made it, for tests that need no Django; and the ledger that knows it."""

from typing import Any

from config.settings import DESTINATIONS
from tests.integration.ledgers import execute
from tests.service import Service
from worker.db.ledger import Ledger
from worker.hosts.pilito.rows import PilitoRows
from worker.policy import POLICIES

TABLE = """
    CREATE TABLE message_conversation (
        title varchar(100), status varchar(60) NOT NULL, is_active boolean NOT NULL DEFAULT true,
        id varchar(10) PRIMARY KEY, source varchar(90) NOT NULL DEFAULT 'unknown', priority smallint NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
        user_id bigint NOT NULL, customer_id bigint NOT NULL DEFAULT 1)
"""


def conversation(service: Service, name: str, status: str = "active", user_id: int = 7) -> None:
    """One of the host's, last saved an hour ago."""
    execute(
        service,
        TABLE.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"),
        "INSERT INTO message_conversation (id, status, user_id, updated_at) "
        "VALUES (:name, :status, :user_id, now() - interval '1 hour')",
        name=name,
        status=status,
        user_id=user_id,
    )


def saved(service: Service, name: str, status: str) -> None:
    """Somebody else saves the row."""
    sql = "UPDATE message_conversation SET status = :status, updated_at = now() WHERE id = :name"
    execute(service, sql, name=name, status=status)


def row(service: Service, name: str) -> dict[str, Any]:
    return service.rows("SELECT * FROM message_conversation WHERE id = :name", name=name)[0]


def status(service: Service, name: str) -> str:
    return str(row(service, name)["status"])


def told(service: Service, name: str) -> list[tuple[str, str | None]]:
    """Outcome and code of everything that is recorded of a conversation, the oldest first."""
    sql = "SELECT outcome, code FROM redirects WHERE conversation_id = :name ORDER BY received_at, event_id"
    return [(one["outcome"], one["code"]) for one in service.rows(sql, name=name)]


def ledger(service: Service) -> Ledger:
    return Ledger(service.engine, DESTINATIONS, tuple(POLICIES), 300, rows=PilitoRows())
