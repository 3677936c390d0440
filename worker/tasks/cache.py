"""update_cache: the key that the AI reads before it answers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from celery import Task, shared_task

from config.settings import settings
from worker.effects import Effect
from worker.failpoints import reach
from worker.redirects import State
from worker.redis_client import key, mget, run
from worker.tasks.doorbell import EXPECTED, answer

# Versions: nobody is that far ahead of the truth, so a copy that says so was not written by us.
FARTHEST = 1_000_000
# Compare and set by version, so that a late writer never brings an old owner back. What is not ours is overwritten (no
# JSON, no version, one that is too far ahead, our version with other words): the state is the truth. Sent whole (EVAL):
# nothing to reload after SCRIPT FLUSH.
WRITE_IF_NEWER = """
local function is_newer(held, version, value)
  if not held then return true end
  local readable, copy = pcall(cjson.decode, held)
  local there = readable and type(copy) == 'table' and tonumber(copy.version)
  if not there or there > version + FARTHEST then return true end
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


def write(states: Sequence[State]) -> Mapping[str, Exception]:
    """Write the keys; the error of each that failed. Raises Transient when Redis cannot be reached."""
    reach("mid_effect_cache")
    ttl = str(settings().cache_ttl)
    return run(WRITE_IF_NEWER, states, lambda state: (value(state), str(state.version), ttl), _key_of)


def _key_of(state: State) -> str:
    return key(state.conversation_id)


def drifted(states: Sequence[State]) -> dict[str, int | None]:
    """Whose key shows another version, is no value of ours, or is gone before its time. Raises Transient.

    A key may end with its TTL, but not while people have the conversation: whatever reads no key as "the AI's" would
    let it answer.
    """
    oldest = datetime.now(UTC) - timedelta(seconds=settings().cache_ttl)
    found: dict[str, int | None] = {}
    for state, held in zip(states, mget([_key_of(state) for state in states]), strict=True):
        if held is None and state.ai_enabled and state.occurred_at < oldest:
            continue
        version, shows = _read(held, state)
        if not shows:
            found[state.conversation_id] = version
    return found


def _read(held: bytes | None, state: State) -> tuple[int | None, bool]:
    """The version in a key's value, None if there is none that could be ours, and whether it shows the state."""
    try:
        there = orjson.loads(held or b"null")
        version = int(there["version"])
    except (ValueError, TypeError, KeyError):
        return None, False
    return version if abs(version - state.version) < FARTHEST else None, there == orjson.loads(value(state))


EFFECT = Effect("cache", write, drifted)


@shared_task(bind=True, name="update_cache", throws=EXPECTED)
def update_cache(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, EFFECT, rung_by)
