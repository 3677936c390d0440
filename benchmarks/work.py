"""The work of one redirect, as every peer does it: one statement for the state, one for the record, two Redis commands.

The same statements as this service's in effect, without the ledger of events that only this service keeps.
"""

import json
import re
from typing import Any

from redis import Redis

MOVE = """
INSERT INTO conversation_states AS s
    (conversation_id, owner_id, status, ai_enabled, destination, version, occurred_at, event_id)
VALUES (:conversation_id, :owner_id, :status, :ai_enabled, :destination, 1, :occurred_at, :event_id)
ON CONFLICT (conversation_id) DO UPDATE
SET status = excluded.status, ai_enabled = excluded.ai_enabled, destination = excluded.destination,
    version = s.version + 1, occurred_at = excluded.occurred_at, event_id = excluded.event_id, updated_at = now()
RETURNING version
"""
SAVE = """
INSERT INTO conversations (id, owner_id, status, ai_enabled, destination, version, updated_at)
VALUES (:conversation_id, :owner_id, :status, :ai_enabled, :destination, :version, now())
ON CONFLICT (id) DO UPDATE
SET owner_id = excluded.owner_id, status = excluded.status, ai_enabled = excluded.ai_enabled,
    destination = excluded.destination, version = excluded.version, updated_at = excluded.updated_at
WHERE conversations.version <= excluded.version
"""
WRITE_IF_NEWER = """
local held = redis.call('GET', KEYS[1])
if held and tonumber(cjson.decode(held).version) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return 1
"""
CACHE_TTL = 86_400


def psycopg(sql: str) -> str:
    """`sql` with its parameters as psycopg writes them."""
    return re.sub(r":(\w+)", r"%(\1)s", sql)


def asked(event: dict[str, Any]) -> dict[str, Any]:
    """The parameters of MOVE."""
    ai = event["destination"] == "ai"
    names = ("conversation_id", "owner_id", "destination", "occurred_at", "event_id")
    return {name: event[name] for name in names} | {"ai_enabled": ai, "status": "active" if ai else "support_active"}


def cache_arguments(state: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of EVAL that write the cache key unless a newer version is there."""
    copy = {name: state[name] for name in ("ai_enabled", "status", "destination", "version")}
    return (WRITE_IF_NEWER, 1, f"ai_control_{state['conversation_id']}", json.dumps(copy), state["version"], CACHE_TTL)


def frame_arguments(state: dict[str, Any]) -> tuple[str, str]:
    """The arguments of PUBLISH."""
    return f"conversations.{state['owner_id']}", json.dumps({"type": "conversation_updated", **state})


def write_cache(redis: Redis, state: dict[str, Any]) -> None:
    redis.eval(*cache_arguments(state))


def publish_frame(redis: Redis, state: dict[str, Any]) -> None:
    redis.publish(*frame_arguments(state))
