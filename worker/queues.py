"""How many messages wait in each queue of the broker."""

from typing import Any

from amqp.exceptions import NotFound
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from worker import json_queue
from worker.errors import Transient
from worker.guard.taking import TAKEN

# Where kombu keeps what a worker has taken from a Redis broker and has not acknowledged.
UNACKED = "unacked"
TIMEOUT = 2


def depths(app: Celery) -> dict[str, int | None]:
    """Name -> messages that wait; None where there is no such queue. Raises Transient when the broker does not say."""
    names = [*(queue.name for queue in app.conf.task_queues), json_queue.QUEUE.name]
    url = str(app.conf.broker_url)
    try:
        if url.startswith("redis"):
            return _of_redis(url, names)
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
            return {name: waiting(connection, name) for name in [*names, json_queue.DEAD_LETTERS.name]}
    except (RedisError, OperationalError, OSError) as error:
        raise Transient(str(error) or type(error).__name__) from error


def _of_redis(url: str, names: list[str]) -> dict[str, int | None]:
    with Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as broker:
        pipeline = broker.pipeline(transaction=False)
        for name in names:
            pipeline.llen(name)
        pipeline.hlen(UNACKED).llen(TAKEN)
        *waiting, noted, moved = pipeline.execute()
        return dict(zip(names, waiting, strict=True)) | {UNACKED: noted + moved}


def waiting(connection: Connection, name: str) -> int | None:
    """How many messages of a RabbitMQ queue are in nobody's hand; None when there is no such queue."""
    channel: Any = connection.channel()  # an error closes it
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except NotFound:
        return None
    finally:
        channel.close()
