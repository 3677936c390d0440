"""Dramatiq on Redis: the same four functions as actors. Retries with backoff and late acknowledgement are its defaults.

https://dramatiq.io/guide.html
"""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from redis import Redis
from sqlalchemy import create_engine, text

from benchmarks import work

broker = RedisBroker(url=os.environ["BROKER_URL"])
dramatiq.set_broker(broker)

# Each worker process imports this module for itself; its threads share the pool.
engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:"))
redis = Redis.from_url(os.environ["REDIS_URL"])


@dramatiq.actor
def redirect(event: dict[str, Any]) -> None:
    state = work.asked(event)
    with engine.begin() as connection:
        state["version"] = connection.scalar(text(work.MOVE), state)
    update_cache.send(state)
    notify_websocket.send(state)
    save_conversation.send(state)


@dramatiq.actor
def update_cache(state: dict[str, Any]) -> None:
    work.write_cache(redis, state)


@dramatiq.actor
def notify_websocket(state: dict[str, Any]) -> None:
    work.publish_frame(redis, state)


@dramatiq.actor
def save_conversation(state: dict[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(text(work.SAVE), state)
