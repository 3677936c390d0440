"""What is particular to the JSON queue on RabbitMQ: restarts, a freeze, the memory alarm, and the delivery limit."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import pytest
from kombu import Connection

from tests.eventually import eventually
from tests.integration.intakes import declare, event, intake, outside, passed_on, put, tasks, waiting
from tests.rabbitmq import RabbitMQ
from tests.service import Service
from worker import json_queue
from worker.intake import amqp
from worker.intake.amqp import Amqp

DEAD = json_queue.DEAD_LETTERS.name


@pytest.fixture
def service(rabbit_service: Service) -> Service:
    return rabbit_service


@contextmanager
def stream(service: Service) -> Iterator[set[str]]:
    """A producer at work; the set grows with the events that the broker has confirmed."""
    stop, sent, confirmed = threading.Event(), count(), set[str]()

    def load() -> None:
        while not stop.is_set():
            with suppress(Exception), outside(service) as producer:
                while not stop.wait(0.002):
                    name = str(next(sent))
                    producer.put(event(name))
                    confirmed.add(name)
            stop.wait(0.1)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield confirmed
    finally:
        stop.set()
        thread.join()


def all_passed_on(service: Service, confirmed: set[str], within: float = 30) -> None:
    found = set[str]()

    def nothing_is_missing() -> bool:
        found.update(one["event_id"] for task in tasks(service) for one in task)
        assert confirmed <= found, f"{len(confirmed - found)} of {len(confirmed)} are missing"
        return True

    eventually(nothing_is_missing, within)
    assert waiting(service, DEAD) == 0


def test_invariant_1_the_broker_restarts_under_load(service: Service, rabbitmq: RabbitMQ) -> None:
    """Stopped and started in the middle of a stream: every confirmed message is passed on, none is dead-lettered."""
    with intake(service) as process:
        with stream(service) as confirmed:
            eventually(lambda: len(confirmed) > 50)
            rabbitmq.stop()
            rabbitmq.start()
            before = len(confirmed)
            eventually(lambda: len(confirmed) > before + 50, within=20)
        all_passed_on(service, confirmed)
        assert process.running


def test_invariant_1_the_broker_is_frozen_for_a_while(service: Service, rabbitmq: RabbitMQ) -> None:
    """SIGSTOP for longer than a publish may take: afterwards everything is passed on, and nothing is dead-lettered."""
    with intake(service) as process:
        with stream(service) as confirmed:
            eventually(lambda: len(confirmed) > 50)
            for server in rabbitmq.processes():
                server.suspend()
            try:
                until = time.monotonic() + 7
                eventually(lambda: process.says("cannot be passed on") or time.monotonic() > until, within=20)
            finally:
                for server in rabbitmq.processes():
                    server.resume()
        all_passed_on(service, confirmed)
        assert process.running


def test_a_memory_alarm_blocks_and_ends(service: Service, rabbitmq: RabbitMQ) -> None:
    """An alarm blocks all publishers: what was read is held, not dead-lettered, and goes on when the alarm ends.

    However often it was tried meanwhile, one connection waits, and one batch at most goes on twice.
    """
    declare(service)
    put(service, *[event(str(number)) for number in range(300)])
    rabbitmq.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        with intake(service) as process:
            eventually(lambda: process.log.read_text().count("cannot be passed on") > 5, within=20)
            eventually(lambda: waiting(service) == 0)  # read, and in hand
            assert waiting(service, "redirects") == 0
            assert rabbitmq.ctl("list_connections", "state").split().count("blocked") == 1
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
            found: list[str] = []

            def all_there() -> bool:
                """Of both batches: the first may come twice before the second comes at all."""
                found.extend(one["event_id"] for task in tasks(service) for one in task)
                return len(set(found)) == 300

            eventually(all_there, within=15)
            assert not process.says("the JSON queue is lost")
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
    assert set(found) == {str(number) for number in range(300)}
    assert len(found) <= 500
    assert waiting(service, DEAD) == 0


def test_a_quiet_queue_and_a_long_wait_keep_the_connection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats go both ways while nothing arrives, and while only signs of life are given: the connection stays.

    The broker's heartbeats stand behind the messages that it has sent, and no read waits for more than a heartbeat.
    """
    monkeypatch.setattr(amqp, "HEARTBEAT", 2)
    reader = Amqp(service.broker_url)
    reader.open()
    try:
        assert [list(reader.receive(5)) for _ in range(6)] == [[]] * 6  # RabbitMQ bears a silence of 4 s
        put(service, *[event(str(number)) for number in range(50)])
        taken = list(eventually(lambda: reader.receive(1)))
        until = time.monotonic() + 6
        eventually(lambda: reader.beat() or time.monotonic() > until, within=10, every=0.3)  # type: ignore[func-returns-value]
        while len(taken) < 50:
            taken += reader.receive(7)
        reader.done(taken)
    finally:
        reader.close()
    assert len({delivery.body for delivery in taken}) == 50
    assert waiting(service) == 0


def test_the_bytes_read_at_once_are_bounded(service: Service) -> None:
    """Messages of megabytes are not all read at once, though all are delivered in the end."""
    declare(service)
    with outside(service) as producer:
        for _ in range(6):
            producer.put(b"x" * 6_000_000)
    reader = Amqp(service.broker_url)
    reader.open()
    sizes = [len(reader.receive(200)) for _ in range(4)]
    reader.close()
    assert max(sizes) <= 4
    assert sum(sizes) == 6


def test_a_queue_deleted_meanwhile_loses_nothing(service: Service) -> None:
    """`redirects` deleted under the intake: RabbitMQ would confirm and drop what comes; the queue is made again."""
    with intake(service), Connection(service.broker_url) as connection:
        put(service, event("first"))
        assert passed_on(service, 1) == [[event("first")]]
        channel: Any = connection.default_channel
        channel.queue_delete("redirects")
        put(service, event("second"))
        assert passed_on(service, 1) == [[event("second")]]


def test_what_kills_the_intake_each_time_is_dead_lettered(service: Service, rabbitmq: RabbitMQ) -> None:
    """A message under which the intake dies each time ends on workflow.redirects.dead, whole; others are read again."""
    name = service.broker_url.rpartition("/")[2]
    rabbitmq.ctl(
        "set_policy", "-p", name, "limit", json_queue.QUEUE.name, '{"delivery-limit": 2}', "--apply-to", "queues"
    )
    declare(service)
    put(service, event("deadly"))
    for _ in range(3):
        with intake(service, REDIRECT_FAILPOINT="intake_after_publish_before_ack") as doomed:
            eventually(lambda doomed=doomed: not doomed.running, within=20)  # type: ignore[misc]
    eventually(lambda: waiting(service, DEAD) == 1)
    with intake(service) as process:
        tasks(service)
        put(service, event("healthy"))
        assert passed_on(service, 1) == [[event("healthy")]]
        process.kill(signal.SIGTERM)
    with Connection(service.broker_url) as connection:
        channel: Any = connection.default_channel
        assert json.loads(channel.basic_get(DEAD, no_ack=True).body) == event("deadly")
