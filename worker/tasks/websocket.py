"""notify_websocket: the live channel that the gateway hands on to browsers."""

from typing import Any

from celery import Task, shared_task

from worker.hosts import host
from worker.hosts.bundled import channel, frame
from worker.tasks.doorbell import EXPECTED, answer

__all__ = ["channel", "frame", "notify_websocket"]


@shared_task(bind=True, name="notify_websocket", throws=EXPECTED)
def notify_websocket(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, host().websocket, rung_by)
