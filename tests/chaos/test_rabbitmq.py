"""On RabbitMQ nothing is lost: not with a worker, not with the node, not with the cache, not in a memory alarm."""

import itertools
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import MessageNacked
from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

from tests.conftest import make_service
from tests.eventually import eventually
from tests.rabbitmq import RabbitMQ
from tests.service import Service
from worker import embedded

HEALED_WITHIN = 30.0


def event(number: int, name: str = "event") -> dict[str, object]:
    fields = {"event_id": f"{name}-{number}", "conversation_id": f"conversation-{number}"}
    return {**fields, "destination": "billing", "owner_id": "7"}


def ready(service: Service, queue: str = "redirects") -> int:
    """How many messages wait there in nobody's hand."""
    with Connection(service.broker_url) as connection:
        channel: Any = connection.default_channel
        return int(channel.queue_declare(queue=queue, passive=True).message_count)


def test_a_killed_workers_messages_are_redelivered_at_once(rabbit_service: Service) -> None:
    """SIGKILL with messages in hand: RabbitMQ has them back before another worker asks, and none is missing."""
    service = rabbit_service
    with service.worker("--include", "tests.killers") as worker:
        for number in range(20):
            service.send(event(number, "slow"))
        eventually(lambda: worker.says("met slow") and ready(service) == 0)
        worker.kill()
        done = len(service.redirects())
        assert done < 20
        eventually(lambda: ready(service) >= 20 - done, within=2)

    with service.worker():
        eventually(lambda: len(service.redirects()) == 20, within=HEALED_WITHIN)
        eventually(service.agrees, within=HEALED_WITHIN)
    assert {row["version"] for row in service.rows("SELECT version FROM conversation_states")} == {1}


def test_the_node_stops_and_is_killed_under_load(rabbit_service: Service, rabbitmq: RabbitMQ) -> None:
    """A stop and a power cut while events stream in: what was confirmed is applied once, by the same worker."""
    service = rabbit_service
    service.producer.conf.broker_transport_options = {"confirm_publish": True}
    with service.worker() as worker, service.beat():
        with _load(service) as sent:
            for down in (rabbitmq.stop, rabbitmq.kill):
                seen = len(service.redirects())
                eventually(partial(_more_than, service, seen + 10), within=40)
                down()
                rabbitmq.start()
            eventually(partial(_more_than, service, len(service.redirects()) + 10), within=40)
        eventually(lambda: len(service.redirects()) == len(sent), within=60)
        eventually(service.agrees, within=HEALED_WITHIN)
        assert worker.running
    assert {row["event_id"] for row in service.redirects()} == {f"event-{number}" for number in sent}
    assert {row["version"] for row in service.rows("SELECT version FROM conversation_states")} == {1}


@contextmanager
def _load(service: Service) -> Iterator[list[int]]:
    """Sends one event after the other, each until it is confirmed; the numbers of those."""
    stop, confirmed = threading.Event(), list[int]()

    def load() -> None:
        for number in itertools.count():
            while not stop.wait(0.02):
                with suppress(Exception):
                    service.send(event(number), retry=False, timeout=2, confirm_timeout=2)
                    confirmed.append(number)
                    break
            if stop.is_set():
                return

    producer = threading.Thread(target=load)
    producer.start()
    try:
        yield confirmed
    finally:
        stop.set()
        producer.join(timeout=30)


def _more_than(service: Service, number: int) -> bool:
    return len(service.redirects()) > number


@pytest.fixture(params=["classic", "quorum by default", "quorum by setting"])
def each_kind(
    request: pytest.FixtureRequest, servers: dict[str, str], rabbitmq: RabbitMQ, tmp_path: Path
) -> Iterator[tuple[Service, Path]]:
    """A service on each kind of queue, whose cache is a server of its own, to be stopped and started."""
    home = tmp_path / "cache-home"
    urls = embedded.start(home, ["cache"])
    default = {"default_queue_type": "quorum"} if request.param == "quorum by default" else {}
    service = make_service(servers, tmp_path, rabbitmq.vhost(**default))
    extra = {"REDIRECT_QUEUE_TYPE": "quorum"} if request.param == "quorum by setting" else {}
    service = replace(service, redis_url=urls["cache"], extra=extra)
    service.producer.conf.task_create_missing_queue_type = "quorum" if extra else None
    try:
        yield service, home
    finally:
        embedded.stop(home)


def test_retries_heal_without_a_sweep(each_kind: tuple[Service, Path]) -> None:
    """With no beat, only Celery's own retries (0.2, 1, 3, 10 s) bring the cache up to date: they work on each kind."""
    service, home = each_kind
    with service.worker() as worker:
        embedded.stop(home, ["cache"])
        service.producer.send_task("redirect_conversation", [event(1)], queue="redirects")
        eventually(lambda: [e for e in service.effects() if e["kind"] == "cache" and e["failures"] >= 3], within=20)
        embedded.start(home, ["cache"])
        eventually(service.agrees, within=HEALED_WITHIN)
        assert not worker.says("native delayed delivery")


def test_a_memory_alarm_holds_nobody_up(rabbit_service: Service, rabbitmq: RabbitMQ) -> None:
    """A node that takes no message: redirects that wait there are applied, and the copies follow after the alarm."""
    service = rabbit_service
    for number in range(20):
        service.send(event(number))
    rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1")
    try:
        with service.worker() as worker, service.beat():
            eventually(lambda: len(service.redirects()) == 20, within=HEALED_WITHIN)
            assert ready(service) == 0
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
            eventually(service.agrees, within=HEALED_WITHIN)
            assert worker.running
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")


def test_a_channel_that_rabbitmq_closes_does_not_end_the_worker(rabbit_service: Service, rabbitmq: RabbitMQ) -> None:
    """A delayed redirect outlasts the `consumer_timeout` (30 minutes; here 1 s): redelivered, and applied when due."""
    service = rabbit_service
    timeout = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    rabbitmq.ctl("eval", timeout.format(1000, 1000))
    try:
        with service.worker() as worker:
            service.send(event(1), countdown=6)
            eventually(lambda: service.state("conversation-1"), within=HEALED_WITHIN)
            assert worker.says("PRECONDITION_FAILED")
            assert worker.running
    finally:
        rabbitmq.ctl("eval", timeout.format(1800000, 60000))


@pytest.fixture
def connection(rabbit_service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """Over the transport that the service has for `amqp:`; outside of it that is kombu's."""
    monkeypatch.setitem(TRANSPORT_ALIASES, "bounded", "worker.guard.amqp_transport:Transport")
    url = rabbit_service.broker_url.replace("amqp:", "bounded:")
    with Connection(url, transport_options={"confirm_publish": True}) as opened:
        yield opened


@pytest.mark.quick
def test_a_fork_leaves_its_parents_connection_alone(connection: Connection) -> None:
    """A process that replaces one that was killed is born with the connection over which its parent publishes."""
    channel: Any = connection.default_channel
    channel.queue_declare("before and after")
    if not (child := os.fork()):
        connection.collect()
        os._exit(0)
    os.waitpid(child, 0)
    connection.Producer().publish({}, routing_key="before and after")
    assert channel.queue_declare("before and after").message_count == 1


@pytest.mark.quick
def test_a_confirm_is_ones_own(connection: Connection) -> None:
    """Messages that nobody waits for come before: their confirms are not taken for that of one that is refused."""
    channel: Any = connection.default_channel
    channel.queue_declare("roomy")
    channel.queue_declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    producer = connection.Producer()
    producer.publish({}, routing_key="full")
    for _ in range(10):
        producer.publish({}, routing_key="roomy", delivery_mode=1)
        assert select.select([connection.connection.sock], [], [], 5)[0]  # its confirm is here
        with pytest.raises(MessageNacked):
            producer.publish({}, routing_key="full")
