"""The three copies of each state, side by side with the truth."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from sqlalchemy import Engine, text

from worker.db.session import translated
from worker.redis_client import key

_STATES = text("""
    SELECT s.conversation_id, s.owner_id, s.destination, s.status, s.ai_enabled, s.version, to_jsonb(c) AS record
    FROM conversation_states s LEFT JOIN conversations c ON c.id = s.conversation_id
    WHERE s.version > 0 ORDER BY s.conversation_id
""")
_BEHIND = text("SELECT kind, state, failures, last_error, conversation_ids FROM side_effects ORDER BY id")
_SHOWN = ("ai_enabled", "status", "destination", "version")


@dataclass(frozen=True)
class Copies:
    """One conversation: its state, the bytes in the cache (None if absent), and its record (None if absent)."""

    state: Mapping[str, Any]
    cache: str | None
    record: Mapping[str, Any] | None


def read(engine: Engine, cache: Redis) -> list[Copies]:
    """Every conversation with its copies, ordered by id. `cache` decodes its answers."""
    with translated(), engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(_STATES).mappings()]
    values: list[Any] = cache.mget([key(row["conversation_id"]) for row in rows]) if rows else []
    return [Copies(row, value, row["record"]) for row, value in zip(rows, values, strict=True)]


def behind(engine: Engine) -> list[Mapping[str, Any]]:
    """The side effects that wait or are dead."""
    with translated(), engine.connect() as connection:
        return [dict(row) for row in connection.execute(_BEHIND).mappings()]


def disagreements(copies: Copies) -> Iterator[str]:
    """A sentence for each copy that does not show the state."""

    truth = {name: copies.state[name] for name in _SHOWN}
    cached = json.loads(copies.cache) if copies.cache else None
    recorded = copies.record and {name: copies.record[name] for name in _SHOWN}
    for name, copy in (("cache", cached), ("record", recorded)):
        if copy != truth:
            yield f"{copies.state['conversation_id']}: the {name} shows {copy}, the truth is {truth}"
