"""update_cache: the key that the AI reads before it answers."""

from typing import Any

from celery import Task, shared_task

from worker.hosts import host
from worker.hosts.bundled import value
from worker.tasks.doorbell import EXPECTED, answer

__all__ = ["update_cache", "value"]


@shared_task(bind=True, name="update_cache", throws=EXPECTED)
def update_cache(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, host().cache, rung_by)
