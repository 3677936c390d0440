"""DBOS: one durable workflow on a queue. State and record are transactions of a datasource, checkpointed together with
what they write; the two Redis commands are steps with retries.

https://docs.dbos.dev/python/tutorials/queue-tutorial
"""

import os
import sys
import threading
from typing import Any

from dbos import DBOS, DBOSConfig, SQLAlchemyDatasource
from redis import Redis
from sqlalchemy import text

from benchmarks import work

QUEUE = "redirects"
DATABASE_URL = os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
CONFIG: DBOSConfig = {
    "name": "redirects",
    "system_database_url": DATABASE_URL,
    "executor_id": sys.argv[1] if len(sys.argv) > 1 else "client",  # DBOS: "a unique value for each process"
    "application_version": "1",
}
DBOS(config=CONFIG)
datasource = SQLAlchemyDatasource.create(DATABASE_URL)
redis = Redis.from_url(os.environ["REDIS_URL"])


@DBOS.workflow(name="redirect")
def redirect(event: dict[str, Any]) -> None:
    state = move(event)
    update_cache(state)
    notify_websocket(state)
    save_conversation(state)


@datasource.transaction
def move(event: dict[str, Any]) -> dict[str, Any]:
    state = work.asked(event)
    return state | {"version": datasource.sql_session().scalar(text(work.MOVE), state)}


@DBOS.step(retries_allowed=True, max_attempts=10)
def update_cache(state: dict[str, Any]) -> None:
    work.write_cache(redis, state)


@DBOS.step(retries_allowed=True, max_attempts=10)
def notify_websocket(state: dict[str, Any]) -> None:
    work.publish_frame(redis, state)


@datasource.transaction
def save_conversation(state: dict[str, Any]) -> None:
    datasource.sql_session().execute(text(work.SAVE), state)


def main() -> None:
    """One worker process."""
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=int(os.environ["DBOS_CONCURRENCY"]))
    print("worker ready", flush=True)  # noqa: T201 - the benchmark waits for it
    threading.Event().wait()


if __name__ == "__main__":
    main()
