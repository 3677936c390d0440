"""The cost of a sweep with nothing due, in databases of few and of very many conversations."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.services import Database, Services

# Rows at a time, so that Ctrl-C is heard in between.
CHUNK = 200_000
# Nobody cleans up while we measure.
_BEFORE = (
    "ALTER TABLE conversation_states SET (autovacuum_enabled = off)",
    "ALTER TABLE conversations SET (autovacuum_enabled = off)",
)
_FILL = (
    """INSERT INTO conversation_states
        (conversation_id, owner_id, status, ai_enabled, destination, version, occurred_at, event_id)
    SELECT 'c' || lpad(n::text, 8, '0'), (n %% 40)::text, 'support_active', false, 'billing', 1, now(), 'wf-' || n
    FROM generate_series(%s, %s) n""",
    """INSERT INTO conversations (id, owner_id, status, ai_enabled, destination, version)
    SELECT 'c' || lpad(n::text, 8, '0'), (n %% 40)::text, 'support_active', false, 'billing', 1
    FROM generate_series(%s, %s) n""",
)
# The planner knows what is there, and nothing is left to be written while we measure.
_AFTER = ("ANALYZE", "CHECKPOINT")


def measure(services: Services, sizes: Sequence[int], rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """For each size the milliseconds of the query `due` and of a whole `retry_side_effects`, one figure per round."""
    databases: list[Database] = []
    try:
        for size in sizes:
            say(f"sweep: filling a database with {size:,} conversations")
            databases.append(services.fresh())
            _fill(databases[-1], size)
        say(f"sweep: {rounds} alternations of {', '.join(f'{size:,}' for size in sizes)}")
        found = _once(services, databases, rounds)
    finally:
        for database in databases:
            services.drop(database)
    return [{"conversations": size, **figures} for size, figures in zip(sizes, found, strict=True)]


def _fill(database: Database, size: int) -> None:
    with database.connection.cursor() as cursor:
        for statement in _BEFORE:
            cursor.execute(statement)
        for first in range(1, size + 1, CHUNK):
            for statement in _FILL:
                cursor.execute(statement, (first, min(size, first + CHUNK - 1)))
        for statement in _AFTER:
            cursor.execute(statement)


def _once(services: Services, databases: Sequence[Database], rounds: int) -> list[dict[str, Any]]:
    done = subprocess.run(  # noqa: S603 - the command is ours
        [sys.executable, "-m", "benchmarks.sweep_calls", str(rounds), *(database.url for database in databases)],
        cwd=ROOT,
        env=services.environment(databases[0], "redis"),
        stdout=subprocess.PIPE,
        timeout=600,
        check=True,
    )
    figures: list[dict[str, Any]] = json.loads(done.stdout)
    return figures
