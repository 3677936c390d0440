"""Plain Celery: one task moves the state and commits, then three tasks write the copies; each retries by itself.

As the user guide has it: `autoretry_for` with `retry_backoff`, `acks_late` because the tasks may run twice, arguments
in JSON, results ignored, and everything else left at its default.
https://docs.celeryq.dev/en/stable/userguide/tasks.html
"""

import os
from functools import lru_cache
from typing import Any

from celery import Celery
from redis import Redis
from sqlalchemy import Engine, create_engine, text

from benchmarks import work

app = Celery("plain", broker=os.environ["BROKER_URL"])
OPTIONS: dict[str, Any] = {
    "autoretry_for": (Exception,),
    "retry_backoff": True,
    "max_retries": 10,
    "acks_late": True,
    "ignore_result": True,
}


@lru_cache(maxsize=1)
def engine() -> Engine:
    """One pool for each worker process, made after the fork."""
    return create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:"))


@lru_cache(maxsize=1)
def redis() -> Redis:
    return Redis.from_url(os.environ["REDIS_URL"])


@app.task(name="redirect", **OPTIONS)
def redirect(event: dict[str, Any]) -> None:
    state = work.asked(event)
    with engine().begin() as connection:
        state["version"] = connection.scalar(text(work.MOVE), state)
    update_cache.delay(state)
    notify_websocket.delay(state)
    save_conversation.delay(state)


@app.task(name="update_cache", **OPTIONS)
def update_cache(state: dict[str, Any]) -> None:
    work.write_cache(redis(), state)


@app.task(name="notify_websocket", **OPTIONS)
def notify_websocket(state: dict[str, Any]) -> None:
    work.publish_frame(redis(), state)


@app.task(name="save_conversation", **OPTIONS)
def save_conversation(state: dict[str, Any]) -> None:
    with engine().begin() as connection:
        connection.execute(text(work.SAVE), state)
