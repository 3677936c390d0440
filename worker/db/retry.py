"""An operator's word: try it now, also what no schedule would try again."""

from typing import Any

from sqlalchemy import Engine, text

from worker.db.session import translated

# A dead row begins its schedule anew, one that waits goes on with it.
_NOW = text("""
    UPDATE side_effects
    SET due_at = now(), updated_at = now(), state = 'waiting',
        failures = CASE state WHEN 'dead' THEN 0 ELSE failures END
    WHERE :conversation_id = ANY(conversation_ids) RETURNING kind
""")


def now(engine: Engine, conversation_id: str) -> list[str]:
    """Make the side effects that name this conversation due; returns their kinds. Ring those afterwards."""
    with translated(), engine.begin() as connection:
        return sorted(set(connection.execute(_NOW, {"conversation_id": conversation_id}).scalars()))


_LISTED = text("""
    SELECT id, kind, state, failures, cardinality(conversation_ids) AS conversations,
        conversation_ids[1:3] AS first_ids, due_at, last_error, created_at
    FROM side_effects
    WHERE (CAST(:kind AS text) IS NULL OR kind = :kind) AND (CAST(:state AS text) IS NULL OR state = :state)
    ORDER BY id LIMIT :limit
""")
_CHOSEN = """
    (CAST(:ids AS bigint[]) IS NULL AND state = 'dead' OR id = ANY(:ids))
    AND (CAST(:kind AS text) IS NULL OR kind = :kind)
"""
_AGAIN = text(f"""
    UPDATE side_effects
    SET due_at = now(), updated_at = now(), state = 'waiting',
        failures = CASE state WHEN 'dead' THEN 0 ELSE failures END
    WHERE {_CHOSEN} RETURNING id, kind
""")
_DISCARD = text(f"DELETE FROM side_effects WHERE state = 'dead' AND {_CHOSEN} RETURNING id, kind, conversation_ids")


def listed(engine: Engine, kind: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
    """The oldest side effects that are behind or dead, with the first three of their conversations."""
    values = {"kind": kind, "state": state, "limit": limit}
    with translated(), engine.connect() as connection:
        return [dict(row) for row in connection.execute(_LISTED, values).mappings()]


def again(engine: Engine, ids: list[int] | None, kind: str | None) -> list[dict[str, Any]]:
    """Make these due, or without `ids` all that are dead; returns those that were there. Ring afterwards."""
    with translated(), engine.begin() as connection:
        return [dict(row) for row in connection.execute(_AGAIN, {"ids": ids, "kind": kind}).mappings()]


def discard(engine: Engine, ids: list[int] | None, kind: str | None) -> list[dict[str, Any]]:
    """Delete these if they are dead, or without `ids` all that are dead; returns what was deleted."""
    with translated(), engine.begin() as connection:
        return [dict(row) for row in connection.execute(_DISCARD, {"ids": ids, "kind": kind}).mappings()]
