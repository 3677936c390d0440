"""save_conversation: the record that the host application shows to its users."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from celery import Task, shared_task

from config.settings import settings
from worker.db.records import RecordStore, store
from worker.db.session import engine
from worker.effects import Effect
from worker.failpoints import reach
from worker.redirects import State
from worker.tasks.doorbell import EXPECTED, answer


@lru_cache(maxsize=1)
def _store() -> RecordStore:
    return store(settings().record_store, engine())


def save(states: Sequence[State]) -> Mapping[str, Exception]:
    reach("mid_effect_record")
    return _store().save(states)


def drifted(states: Sequence[State]) -> Mapping[str, int | None]:
    return _store().drifted(states)


EFFECT = Effect("record", save, drifted)


@shared_task(bind=True, name="save_conversation", throws=EXPECTED)
def save_conversation(self: Task[Any, Any], rung_by: str | None = None) -> dict[str, Any]:
    return answer(self, EFFECT, rung_by)
