"""Procrastinate: asynchronous tasks, which it recommends; the three jobs are deferred in the transaction of the state.

https://procrastinate.readthedocs.io/
"""

import os
from functools import lru_cache
from typing import Any

from procrastinate import App, PsycopgConnector, RetryStrategy
from redis.asyncio import Redis

from benchmarks import work

connector = PsycopgConnector(conninfo=os.environ["DATABASE_URL"])
app = App(connector=connector)
RETRY = RetryStrategy(max_attempts=10, exponential_wait=2)


@lru_cache(maxsize=1)
def redis() -> Redis:
    return Redis.from_url(os.environ["REDIS_URL"])


@app.task(retry=RETRY)
async def redirect(event: dict[str, Any]) -> None:
    state = work.asked(event)
    async with connector.pool.connection() as connection:
        cursor = await connection.execute(work.psycopg(work.MOVE), state)
        row: Any = await cursor.fetchone()
        state["version"] = row[0]
        for task in (update_cache, notify_websocket, save_conversation):
            await task.configure(connection=connection).defer_async(state=state)


@app.task(retry=RETRY)
async def update_cache(state: dict[str, Any]) -> None:
    await redis().eval(*work.cache_arguments(state))


@app.task(retry=RETRY)
async def notify_websocket(state: dict[str, Any]) -> None:
    await redis().publish(*work.frame_arguments(state))


@app.task(retry=RETRY)
async def save_conversation(state: dict[str, Any]) -> None:
    async with connector.pool.connection() as connection:
        await connection.execute(work.psycopg(work.SAVE), state)
