"""save_conversation: the record that the host application shows to its users."""

from typing import Any

from celery import Task, shared_task

from worker.hosts import host
from worker.tasks.doorbell import EXPECTED, answer


@shared_task(bind=True, name="save_conversation", throws=EXPECTED)
def save_conversation(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, host().record, rung_by)
