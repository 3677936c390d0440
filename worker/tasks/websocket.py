"""notify_websocket: the live channel that the gateway hands on to browsers."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from celery import Task, shared_task

from config import tracing
from worker.effects import Effect
from worker.failpoints import reach
from worker.redirects import State
from worker.redis_client import run
from worker.tasks.doorbell import EXPECTED, answer

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


EFFECT = Effect("websocket", publish)


@shared_task(bind=True, name="notify_websocket", throws=EXPECTED)
def notify_websocket(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, EFFECT, rung_by)
