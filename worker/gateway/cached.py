"""The copy that the AI reads, as it is."""

import json
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.hosts import host


async def read(redis: Redis, conversation_id: str) -> dict[str, Any]:
    """`cache`, and in `cache_status` what is known of it."""
    try:
        value = await redis.get(host().cache_key(conversation_id))
    except RedisError:
        return {"cache": None, "cache_status": "unreachable"}
    if value is None:
        return {"cache": None, "cache_status": "absent"}
    try:
        return {"cache": _strict(value), "cache_status": "present"}
    except (ValueError, RecursionError):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        return {"cache": text, "cache_status": "unreadable"}


def _strict(value: bytes | str) -> object:
    """What the JSON in `value` says. Raises ValueError for what no answer of ours can hold: NaN, half a character."""
    said: object = host().cache_value(value)
    json.dumps(said, allow_nan=False, ensure_ascii=False).encode()
    return said
