"""The outbox: events that a producer commits in its own transaction, until the intake has passed them on."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

# Without a time of its own an event was decided when it was put here: by the database's clock, in order of insertion.
_TIMED = """CASE WHEN jsonb_typeof(body) = 'object' AND body->>'occurred_at' IS NULL AND body->>'received_at' IS NULL
        AND NOT body ? 'specversion'
    THEN body || jsonb_build_object(
        'received_at', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
    ELSE body END::text"""
_STORE = text("INSERT INTO event_outbox (body) SELECT value FROM jsonb_array_elements(CAST(:bodies AS jsonb))")
# MATERIALIZED, or the planner may run the locking select again for every row it joins.
_TAKE = text(f"""
    WITH taken AS MATERIALIZED (SELECT id FROM event_outbox ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED),
    gone AS (DELETE FROM event_outbox o USING taken WHERE o.id = taken.id RETURNING o.id, {_TIMED} AS body)
    SELECT body FROM gone ORDER BY id
""")


def store(connection: Connection, events: Sequence[str]) -> None:
    """Put `events`, each the JSON of one, into the outbox, in the caller's transaction."""
    if events:
        connection.execute(_STORE, {"bodies": f"[{','.join(events)}]"})


def take(connection: Connection, limit: int) -> list[str]:
    """Take up to `limit` bodies out, oldest first, in the caller's transaction: if that fails, they are still there.

    A body is what a message of the JSON queue may be: an event, an array of events, or CloudEvents.
    """
    return list(connection.scalars(_TAKE, {"limit": limit}))
