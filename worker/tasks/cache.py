"""update_cache: the key that the AI reads before it answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from celery import Task, shared_task

from config.settings import settings
from worker.effects import Effect
from worker.failpoints import reach
from worker.redirects import State
from worker.redis_client import key, run
from worker.tasks.doorbell import answer

# Compare and set by version, so that a late writer never brings an old owner back. What is not ours to read (no JSON,
# no version) is overwritten: the state is the truth. Sent whole (EVAL): nothing to reload after SCRIPT FLUSH.
WRITE_IF_NEWER = """
local function is_newer(held, version)
  if not held then return true end
  local readable, copy = pcall(cjson.decode, held)
  local there = readable and type(copy) == 'table' and tonumber(copy.version)
  return not there or there < tonumber(version)
end
local failed = {}
for at, key in ipairs(KEYS) do
  local value, version, ttl = ARGV[3 * at - 2], ARGV[3 * at - 1], ARGV[3 * at]
  local answer = redis.pcall('GET', key)
  if (type(answer) ~= 'table' or not answer.err) and is_newer(answer, version) then
    answer = redis.pcall('SET', key, value, 'EX', ttl)
  end
  if type(answer) == 'table' and answer.err then failed[#failed + 1] = {at, answer.err} end
end
return failed
"""


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


EFFECT = Effect("cache", write)


@shared_task(bind=True, name="update_cache")
def update_cache(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, EFFECT, rung_by)
