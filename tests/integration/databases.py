"""A database for one test of the schema: its tables, a row for each, and what is in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, text

from worker.db.session import psycopg2_url

TABLES = {
    "conversation_states",
    "redirects",
    "side_effects",
    "rejected_events",
    "event_outbox",
    "conversations",
    "counters",
    "reconciliation",
    "guards",
    "proofs",
}
# What a migration itself puts a row in.
SEEDED = {"counters", "reconciliation"}

ROWS = {
    "conversation_states": """INSERT INTO conversation_states VALUES
        ('c1', '7', 'support_active', false, 'billing', 3, '2026-11-22T10:00Z', 'e1', '2026-11-22T10:00Z')""",
    "redirects": """INSERT INTO redirects
        (event_id, conversation_id, destination, outcome, version, status, occurred_at)
        SELECT 'e' || n, 'c1', 'billing', 'applied', n, 'support_active', now() FROM generate_series(1, 100) n""",
    "side_effects": "INSERT INTO side_effects (kind, conversation_ids) VALUES ('cache', '{c1,c2}')",
    "rejected_events": """INSERT INTO rejected_events (id, source, code, error, body)
        VALUES (gen_random_uuid(), 'here', 'malformed', 'پیام', '{')""",
    "conversations": """INSERT INTO conversations (id, status, ai_enabled, destination, version)
        VALUES ('c1', 'active', true, 'ai', 1)""",
    "counters": "INSERT INTO counters VALUES ('sweeps', '{}', 3, '2026-11-22T10:00Z')",
    "reconciliation": "UPDATE reconciliation SET marker = 3, after = 'c1'",
    "event_outbox": """INSERT INTO event_outbox (body) VALUES ('{"event_id": "e1"}')""",
}


class Database:
    """A database of its own, empty at first."""

    def __init__(self, admin_url: str, name: str) -> None:
        self.url = admin_url.rsplit("/", 1)[0] + f"/{name}"
        self.engine: Engine = create_engine(psycopg2_url(self.url), poolclass=NullPool)

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def tables(self) -> set[str]:
        return {name for (name,) in self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}

    def content(self) -> dict[str, list[tuple[Any, ...]]]:
        return {table: self.rows(f"SELECT * FROM {table} ORDER BY 1") for table in self.tables() & TABLES - SEEDED}

    @contextmanager
    def holding(self, statement: str) -> Iterator[None]:
        """A transaction of somebody else that has done `statement` and does not end."""
        with self.engine.connect() as holder:
            holder.execute(text(statement))
            yield
