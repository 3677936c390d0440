"""notify_websocket: the live channel that the gateway hands on to browsers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task, shared_task

from worker.effects import Effect
from worker.failpoints import reach
from worker.redirects import State
from worker.redis_client import client, execute
from worker.tasks.doorbell import answer


def channel(owner_id: str | None) -> str:
    return f"conversations.{owner_id or '-'}"


def frame(state: State) -> str:
    """The JSON of the contract, section 3.6; a client drops a version it already has."""
    return json.dumps(
        {
            "type": "conversation_updated",
            "conversation_id": state.conversation_id,
            "owner_id": state.owner_id,
            "status": state.status,
            "ai_enabled": state.ai_enabled,
            "destination": state.destination,
            "version": state.version,
            "event_id": state.event_id,
            "occurred_at": state.occurred_at.isoformat(),
        }
    )


def publish(states: Sequence[State]) -> Mapping[str, Exception]:
    """Publish the frames in one pipeline. Raises Transient when Redis cannot be reached."""
    pipeline = client().pipeline(transaction=False)
    for state in states:
        pipeline.publish(channel(state.owner_id), frame(state))
    reach("mid_effect_websocket")
    return execute(pipeline, states)


EFFECT = Effect("websocket", publish)


@shared_task(bind=True, name="notify_websocket")
def notify_websocket(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, EFFECT, rung_by)
