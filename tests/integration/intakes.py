"""Intakes as real processes, an outside producer of JSON messages, and a look at the tasks they are passed on as."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from kombu import Connection
from kombu.exceptions import ChannelError, OperationalError
from redis import Redis

from tests.eventually import eventually
from tests.service import Process, Service
from worker import json_queue
from worker.intake.redis_list import ALIVE

JSON = "application/json"


def event(name: str, conversation_id: str | None = None, **fields: object) -> dict[str, Any]:
    return {"event_id": name, "conversation_id": conversation_id or name, "destination": "billing"} | fields


def intake(service: Service, **environment: str) -> AbstractContextManager[Process]:
    """A process that reads the queue until the block ends. The queue exists inside the block."""
    return service.running("worker.intake", ready="reading the JSON queue", **environment)


def declare(service: Service) -> None:
    with Connection(service.broker_url) as connection:
        json_queue.declare(connection)


class Outside:
    """A producer that knows the contract's address and nothing else of us."""

    def __init__(self, connection: Connection) -> None:
        self._producer = connection.Producer(auto_declare=False)

    def put(self, body: object, content_type: str = JSON, headers: Mapping[str, Any] | None = None) -> None:
        """One message. Text and bytes go as they are, anything else as JSON."""
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        self._producer.publish(
            content,
            exchange="workflow",
            routing_key="workflow.redirect",
            content_type=content_type,
            content_encoding="binary" if isinstance(content, bytes) else "utf-8",
            headers=dict(headers or {}),
        )


@contextmanager
def outside(service: Service) -> Iterator[Outside]:
    options = {"confirm_publish": True}
    with Connection(service.broker_url, transport_options=options) as connection:
        yield Outside(connection)


def put(service: Service, *bodies: object) -> None:
    with outside(service) as producer:
        for body in bodies:
            producer.put(body)


def waiting(service: Service, queue: str = "workflow.redirects") -> int:
    """The messages that are ready on a queue; 0 where there is no such queue."""
    with Connection(service.broker_url) as connection:
        channel: Any = connection.default_channel
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except (ChannelError, OperationalError):
            return 0


def tasks(service: Service) -> list[list[dict[str, Any]]]:
    """Take what was passed on off `redirects`: the events of each task."""
    found = []
    with Connection(service.broker_url) as connection:
        channel: Any = connection.default_channel
        while (message := channel.basic_get("redirects", no_ack=True)) is not None:
            args, kwargs, _ = json.loads(message.body)
            assert kwargs == {}
            found.append([json.loads(raw) for raw in args])
    return found


def passed_on(service: Service, number: int, within: float = 15) -> list[list[dict[str, Any]]]:
    """All tasks, once `number` events have been passed on."""
    found: list[list[dict[str, Any]]] = []

    def all_there() -> bool:
        found.extend(tasks(service) if waiting(service, "redirects") else [])
        seen = sum(map(len, found))
        assert seen >= number, f"{seen} of {number} events"
        return True

    eventually(all_there, within)
    return found


def age(service: Service) -> None:
    """As if every intake on Redis had given its last sign of life long ago; those that live soon give another."""
    if service.broker_url.startswith("redis"):
        with Redis.from_url(service.broker_url) as redis:
            for name in redis.zrange(ALIVE, 0, -1):
                redis.zadd(ALIVE, {name: 1}, xx=True)


def applied(service: Service, number: int, within: float = 30) -> list[str]:
    """The event_ids of all redirects, once there are `number`."""
    eventually(lambda: len(service.redirects()) >= number, within, every=0.1)
    return [row["event_id"] for row in service.redirects()]
