"""What is behind: rows and conversations of each kind and state, and since when."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from worker.db.prepared import Prepared
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
# What vacuum has to remove. The tables whose rows come and go all day: whoever looks for what is due reads past these.
_UNVACUUMED = text("""
    SELECT relname, n_dead_tup FROM pg_stat_user_tables
    WHERE relid IN ('side_effects'::regclass, 'event_outbox'::regclass) ORDER BY relname
""")
_OUTBOX = text("SELECT count(*) FROM (SELECT FROM event_outbox LIMIT :most) AS counted")
# No index knows the conversations of a row, so all rows are read: 0.5 s with 100,000, ten times the rest of the round.
MANY = 1000
_UNFINISHED = Prepared(
    "unfinished",
    """
    WITH few AS MATERIALIZED (SELECT count(*) < :many AS so FROM (SELECT FROM side_effects LIMIT :many) AS counted)
    SELECT unnest(:ids) AS behind WHERE NOT (SELECT so FROM few)
    UNION SELECT behind FROM side_effects e, unnest(e.conversation_ids) AS behind
    WHERE (SELECT so FROM few) AND e.conversation_ids && :ids AND behind = ANY(:ids)
    """,
    ids="text[]",
    many="bigint",
)


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


def unvacuumed(engine: Engine) -> dict[str, int]:
    """Table -> rows that are dead and still there, as PostgreSQL estimates. Raises Transient."""
    with translated(), engine.connect() as connection:
        return {row.relname: row.n_dead_tup for row in connection.execute(_UNVACUUMED)}


def unfinished(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those of `ids` that some side effect, of any kind, still names; with MANY rows or more all of them."""
    with connection.begin():
        return set(_UNFINISHED.run(connection, ids=list(ids), many=MANY).scalars())
