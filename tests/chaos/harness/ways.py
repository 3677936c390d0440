"""The ways in as one call each, for bytes that nobody has looked at; what sends for long is in ways_in.py."""

import http.client
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from typing import Any

from kombu import Connection
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.chaos.harness.workload import PUBLISH, Event, Producer, Sent
from tests.chaos.harness.world import World
from tests.integration.intakes import Outside
from tests.poison import EMBED, headers

# Seconds: more than the gateway takes for a body of megabytes on a loaded machine.
ANSWERED = 30.0
Way = Callable[[World, str, bytes], str | None]
"""Sends the JSON of one event (or of an array) under a name. What refused it at the door; None: it was taken."""


def by_task(world: World, name: str, raw: bytes) -> None:
    """One Celery task, whose body nobody has looked at."""
    with _connected(world) as connection:
        content = b"[[" + raw + b"], {}, " + json.dumps(EMBED).encode() + b"]"
        options: Any = {"content_type": "application/json", "content_encoding": "utf-8", "headers": headers(name)}
        connection.Producer(auto_declare=False).publish(content, routing_key="redirects", **options)


def by_json_queue(world: World, _name: str, raw: bytes) -> None:
    with _connected(world) as connection:
        Outside(connection).put(raw)


def by_http(world: World, _name: str, raw: bytes) -> str | None:
    status, answer = post(world, raw)
    return None if status == 202 else f"{status} {answer}"


def by_outbox(world: World, _name: str, raw: bytes) -> str | None:
    try:
        with world.direct.engine.begin() as connection:
            connection.execute(
                text("INSERT INTO event_outbox (body) VALUES (CAST(:body AS jsonb))"), {"body": raw.decode()}
            )
    except (DBAPIError, ValueError) as refused:
        return str(refused)[:200]
    return None


WAYS: Mapping[str, Way] = {"task": by_task, "JSON queue": by_json_queue, "HTTP": by_http, "outbox": by_outbox}


def send(world: World, way: str, *events: Event) -> None:
    """Healthy events, one message each, which are taken; remembered as sent and acknowledged."""
    sent: Sent = world.producer.sent
    for event in events:
        sent.events.setdefault(str(event["event_id"]), event)
        refused = WAYS[way](world, str(event["event_id"]), json.dumps(event).encode())
        assert refused is None, refused
        sent.acknowledged.append(str(event["event_id"]))


def post(world: World, raw: bytes) -> tuple[int, Any]:
    """The status and the answer of POST /events."""
    assert world.watcher is not None, "no gateway runs"
    with closing(http.client.HTTPConnection("127.0.0.1", world.watcher.port, timeout=ANSWERED)) as connection:
        connection.request("POST", "/events", raw, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)


def metrics(world: World) -> str:
    assert world.watcher is not None, "no gateway runs"
    with closing(http.client.HTTPConnection("127.0.0.1", world.watcher.port, timeout=ANSWERED)) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def another(world: World) -> Producer:
    """One more producer, with a connection of its own and the same memory."""
    return Producer(world.direct, world.producer.sent)


def _connected(world: World) -> Connection:
    limits = {"socket_timeout": PUBLISH, "socket_connect_timeout": PUBLISH}
    options = limits if world.on_redis else {"confirm_publish": True}
    return Connection(world.direct.broker_url, connect_timeout=PUBLISH, transport_options=options)


def together(calls: Sequence[Callable[[], object]]) -> None:
    """All at once, each in a thread; raises what one of them raises."""
    start = Barrier(len(calls))

    def call(one: Callable[[], object]) -> None:
        start.wait(20)
        one()

    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(call, one) for one in calls]:
            done.result()
