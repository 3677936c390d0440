"""update_cache: the key that the AI reads before it answers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task, shared_task

from config.settings import settings
from worker.effects import Effect
from worker.failpoints import reach
from worker.redirects import State
from worker.redis_client import client, execute
from worker.tasks.doorbell import answer

# Compare and set by version, so that a late writer never brings an old owner back. What is not ours to read (no JSON,
# no version) is overwritten: the state is the truth. Sent whole (EVAL): nothing to reload after SCRIPT FLUSH.
WRITE_IF_NEWER = """
local held = redis.call('GET', KEYS[1])
if held then
  local readable, copy = pcall(cjson.decode, held)
  local version = readable and type(copy) == 'table' and tonumber(copy.version)
  if version and version >= tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return 1
"""


def key(conversation_id: str) -> str:
    return f"ai_control_{conversation_id}"


def value(state: State) -> str:
    """The JSON of the contract, section 3.5."""
    fields = {"ai_enabled": state.ai_enabled, "status": state.status}
    return json.dumps(fields | {"destination": state.destination, "version": state.version})


def write(states: Sequence[State]) -> Mapping[str, Exception]:
    """Write the keys in one pipeline; the error of each that failed. Raises Transient when Redis cannot be reached."""
    pipeline = client().pipeline(transaction=False)
    for state in states:
        pipeline.eval(WRITE_IF_NEWER, 1, key(state.conversation_id), value(state), state.version, settings().cache_ttl)
    reach("mid_effect_cache")
    return execute(pipeline, states)


EFFECT = Effect("cache", write)


@shared_task(bind=True, name="update_cache")
def update_cache(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, EFFECT, rung_by)
