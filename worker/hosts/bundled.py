"""The host that comes with the service: the copies of the contract, sections 3.5, 3.6 and 3.8."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import orjson

from config import tracing
from config.settings import settings
from worker.db.records import RecordStore, store
from worker.db.session import engine
from worker.effects import Effect
from worker.failpoints import reach
from worker.hosts import Host
from worker.redirects import FARTHEST, State
from worker.redis_client import key, mget, run

# Compare and set by version, so that a late writer never brings an old owner back. What is not ours is overwritten (no
# JSON, no version, none that is a whole number, one that is too far ahead, our version with other words): the state is
# the truth. Of NaN, which cjson reads, % makes NaN, which is not 0. Sent whole (EVAL): nothing to reload after SCRIPT
# FLUSH.
WRITE_IF_NEWER = """
local function is_newer(held, version, value)
  if not held then return true end
  local readable, copy = pcall(cjson.decode, held)
  local there = readable and type(copy) == 'table' and copy.version
  if type(there) ~= 'number' or there % 1 ~= 0 or there > version + FARTHEST then return true end
  return there < version or (there == version and held ~= value)
end
local failed = {}
for at, key in ipairs(KEYS) do
  local value, version, ttl = ARGV[3 * at - 2], ARGV[3 * at - 1], ARGV[3 * at]
  local answer = redis.pcall('GET', key)
  if (type(answer) ~= 'table' or not answer.err) and is_newer(answer, tonumber(version), value) then
    answer = redis.pcall('SET', key, value, 'EX', ttl)
  end
  if type(answer) == 'table' and answer.err then failed[#failed + 1] = {at, answer.err} end
end
return failed
""".replace("FARTHEST", str(FARTHEST))


def value(state: State) -> str:
    """The JSON of the contract, section 3.5."""
    fields = {"ai_enabled": state.ai_enabled, "status": state.status}
    return orjson.dumps(fields | {"destination": state.destination, "version": state.version}).decode()


def write_cache(states: Sequence[State]) -> Mapping[str, Exception]:
    """Write the keys; the error of each that failed. Raises Transient when Redis cannot be reached."""
    reach("mid_effect_cache")
    ttl = str(settings().cache_ttl)
    return run(WRITE_IF_NEWER, states, lambda state: (value(state), str(state.version), ttl), _keys)


def _keys(state: State) -> tuple[str]:
    return (key(state.conversation_id),)


def cache_drifted(states: Sequence[State]) -> dict[str, int | None]:
    """Whose key shows another version, is no value of ours, or is gone before its time. Raises Transient.

    A key may end with its TTL, but not while people have the conversation: whatever reads no key as "the AI's" would
    let it answer.
    """
    oldest = datetime.now(UTC) - timedelta(seconds=settings().cache_ttl)
    found: dict[str, int | None] = {}
    for state, held in zip(states, mget([key(state.conversation_id) for state in states]), strict=True):
        if held is None and state.ai_enabled and state.occurred_at < oldest:
            continue
        version, shows = _shown(held, state)
        if not shows:
            found[state.conversation_id] = version
    return found


def _shown(held: bytes | None, state: State) -> tuple[int | None, bool]:
    """The version in a key's value, None if there is none that could be ours, and whether it shows the state."""
    try:
        there = orjson.loads(held or b"null")
        version = int(there["version"])
    except (ValueError, TypeError, KeyError):
        return None, False
    return version if abs(version - state.version) <= FARTHEST else None, there == orjson.loads(value(state))


PUBLISH = """
local failed = {}
for at = 1, #ARGV / 2 do
  local answer = redis.pcall('PUBLISH', ARGV[2 * at - 1], ARGV[2 * at])
  if type(answer) == 'table' and answer.err then failed[#failed + 1] = {at, answer.err} end
end
return failed
"""


def channel(owner_id: str | None) -> str:
    return f"conversations.{owner_id or '-'}"


def frame(state: State) -> str:
    """The JSON of the contract, section 3.6; a client drops a version it already has."""
    return orjson.dumps({"type": "conversation_updated", **state.as_dict(), **tracing.carrier()}).decode()


def publish(states: Sequence[State]) -> Mapping[str, Exception]:
    """Publish the frames; the error of each that failed. Raises Transient when Redis cannot be reached."""
    reach("mid_effect_websocket")
    return run(PUBLISH, states, lambda state: (channel(state.owner_id), frame(state)), None)


@lru_cache(maxsize=1)
def _store() -> RecordStore:
    return store(settings().record_store, engine())


def save(states: Sequence[State]) -> Mapping[str, Exception]:
    reach("mid_effect_record")
    return _store().save(states)


def record_drifted(states: Sequence[State]) -> Mapping[str, int | None]:
    return _store().drifted(states)


HOST = Host(
    cache=Effect("cache", write_cache, cache_drifted),
    websocket=Effect("websocket", publish),
    record=Effect("record", save, record_drifted),
)
