"""What is behind: rows and conversations of each kind and state, and since when."""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from worker.db.session import translated

# The outbox is drained in batches; past this, more is just much.
OUTBOX_COUNTED = 100_000
# Ages by the database's clock, which has set the times.
_BEHIND = text("""
    SELECT kind, state, count(*) AS rows, sum(cardinality(conversation_ids)) AS conversations,
        extract(epoch FROM now() - min(created_at))::float8 AS oldest,
        greatest(extract(epoch FROM now() - min(due_at)), 0)::float8 AS overdue
    FROM side_effects GROUP BY kind, state ORDER BY kind, state
""")
_OUTBOX = text("SELECT count(*) FROM (SELECT FROM event_outbox LIMIT :most) AS counted")


@dataclass(frozen=True, slots=True)
class Behind:
    """One kind in one state. `oldest` is seconds since the oldest was filed, `overdue` since the first was due."""

    kind: str
    state: str
    rows: int
    conversations: int
    oldest: float
    overdue: float


def behind(engine: Engine) -> list[Behind]:
    """Raises Transient."""
    with translated(), engine.connect() as connection:
        return [Behind(*row) for row in connection.execute(_BEHIND)]


def outbox(engine: Engine) -> int:
    """Events that wait in the outbox, up to OUTBOX_COUNTED. Raises Transient."""
    with translated(), engine.connect() as connection:
        return int(connection.execute(_OUTBOX, {"most": OUTBOX_COUNTED}).scalar_one())
