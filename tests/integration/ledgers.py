"""Events as a producer writes them, and the ledger that takes them, for tests that need no worker."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from config.settings import DESTINATIONS
from tests.service import Service
from worker.db.ledger import Ledger
from worker.policy import POLICIES


def event(event_id: str, destination: str = "billing", conversation_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"event_id": event_id, "conversation_id": conversation_id, "destination": destination} | more


def ledger_of(service: Service, max_clock_skew: float = 300) -> Ledger:
    return Ledger(service.engine, DESTINATIONS, tuple(POLICIES), max_clock_skew)


def execute(service: Service, *statements: str, **values: Any) -> None:
    with service.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), values)


def gaps(service: Service) -> list[dict[str, Any]]:
    """The conversations whose applied redirects did not give it each version from 1 to its present one, once."""
    return service.rows("""
        SELECT s.conversation_id, s.version, array_agg(r.version ORDER BY r.version) AS given
        FROM conversation_states s
        LEFT JOIN redirects r ON r.conversation_id = s.conversation_id AND r.outcome = 'applied'
        GROUP BY s.conversation_id
        HAVING array_agg(r.version ORDER BY r.version) IS DISTINCT FROM ARRAY(SELECT generate_series(1, s.version))""")


def file_effect(service: Service, *conversation_ids: str, kind: str = "cache", **columns: Any) -> int:
    """A side effect, due since a second ago unless `columns` say otherwise; its id."""
    row = {"kind": kind, "conversation_ids": list(conversation_ids), "due_at": datetime.now(UTC) - timedelta(seconds=1)}
    row |= columns
    values = ", ".join(f":{name}" for name in row)
    with service.engine.begin() as connection:
        statement = text(f"INSERT INTO side_effects ({', '.join(row)}) VALUES ({values}) RETURNING id")
        identity: int = connection.scalar(statement, row)
    return identity


def make_due(service: Service) -> None:
    """As if the policy's waits had passed."""
    execute(service, "UPDATE side_effects SET due_at = now() - interval '1 second' WHERE state = 'waiting'")
