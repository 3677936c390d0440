"""What was: the redirects that are kept, and what people ask about one conversation."""

from typing import Any

from sqlalchemy import Engine, text

from worker.db.session import translated

# Small slices: no long transaction, no lock that anybody waits for.
SLICE = 1000
# Slices per run: what is left is for the next run.
SLICES = 100

_PRUNE = text("""
    DELETE FROM redirects WHERE event_id IN (
        SELECT event_id FROM redirects WHERE received_at < now() - make_interval(days => :days)
        ORDER BY received_at LIMIT :slice FOR UPDATE SKIP LOCKED)
""")
_STATE = text("SELECT * FROM conversation_states WHERE conversation_id = :id AND version > 0")
_RECORD = text("SELECT * FROM conversations WHERE id = :id")
_EFFECTS = text("""
    SELECT kind, state, failures, due_at, last_error, created_at FROM side_effects
    WHERE :id = ANY(conversation_ids) ORDER BY id
""")
_REDIRECTS = text(
    "SELECT * FROM redirects WHERE conversation_id = :id ORDER BY received_at DESC, event_id LIMIT :limit"
)
_NEWEST = text("""
    SELECT * FROM conversation_states WHERE version > 0 AND (CAST(:owner_id AS text) IS NULL OR owner_id = :owner_id)
    ORDER BY updated_at DESC, conversation_id LIMIT :limit
""")


def prune(engine: Engine, days: int) -> int:
    """Delete redirects older than `days`; returns how many."""
    total = 0
    for _ in range(SLICES):
        with translated(), engine.begin() as connection:
            pruned = connection.execute(_PRUNE, {"days": days, "slice": SLICE}).rowcount
        total += pruned
        if pruned < SLICE:
            break
    return total


def conversation(engine: Engine, conversation_id: str, limit: int = 50) -> dict[str, Any] | None:
    """State, record, side effects that are behind, and the newest redirects of one conversation; None if unknown."""
    values = {"id": conversation_id, "limit": limit}
    with translated(), engine.connect() as connection:
        state = connection.execute(_STATE, values).mappings().first()
        if state is None:
            return None
        record = connection.execute(_RECORD, values).mappings().first()
        return {
            "state": dict(state),
            "record": dict(record) if record else None,
            "side_effects": [dict(row) for row in connection.execute(_EFFECTS, values).mappings()],
            "redirects": [dict(row) for row in connection.execute(_REDIRECTS, values).mappings()],
        }


def newest(engine: Engine, owner_id: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """The states that moved last, of one owner or of all."""
    with translated(), engine.connect() as connection:
        return [dict(row) for row in connection.execute(_NEWEST, {"owner_id": owner_id, "limit": limit}).mappings()]
