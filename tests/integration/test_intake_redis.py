"""What is particular to the JSON queue on Redis: lists, items that are no messages, and intakes that take over."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from kombu import Connection, Exchange, Producer
from redis import Redis
from redis.exceptions import RedisError

from tests.eventually import eventually
from tests.integration.intakes import age, declare, event, intake, outside, passed_on, put, tasks, waiting
from tests.service import Service
from worker import embedded
from worker.intake.redis_list import ALIVE, LISTS, RedisList, taken_by

QUEUE = "workflow.redirects"


@pytest.fixture
def own_broker(service: Service, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose broker is a server of its own, to be stopped, started and frozen."""
    home = tmp_path / "broker-home"
    try:
        yield replace(service, broker_url=embedded.start(home, ["broker"])["broker"]), home
    finally:
        embedded.stop(home)


def names(found: list[list[dict[str, object]]]) -> list[object]:
    return [one["event_id"] for task in found for one in task]


def test_a_raw_push_and_all_priorities_are_read(service: Service) -> None:
    """Plain JSON pushed on the list, and kombu's messages of priorities 3, 6 and 9, are passed on."""
    with intake(service), Connection(service.broker_url) as connection:
        service.broker.lpush(QUEUE, json.dumps(event("raw")))
        service.broker.lpush(QUEUE, json.dumps([event("raw-1"), event("raw-2")]))
        producer = Producer(connection, Exchange("workflow", type="topic"), "workflow.redirect")
        for priority in (0, 3, 6, 9):
            producer.publish(event(f"priority-{priority}"), priority=priority)
        found = names(passed_on(service, 7))
    assert sorted(map(str, found)) == sorted(["raw", "raw-1", "raw-2", *(f"priority-{n}" for n in (0, 3, 6, 9))])
    assert not service.broker.exists(*LISTS)


@pytest.mark.parametrize(
    "item",
    [b"no json", b"\xff\x00\xfe", b'{"properties": {}, "body": 5}', b'{"body": "5", "properties": []}', b"[", b" "],
    ids=repr,
)
def test_garbage_on_the_list_is_no_envelope(item: bytes) -> None:
    """An item that is no envelope of kombu's is the body itself, to the byte."""
    from worker.intake.redis_list import _delivery

    delivery = _delivery(item)
    assert (delivery.body, delivery.tag) == (item, item)


def test_garbage_on_the_list_is_kept(service: Service) -> None:
    """What is no JSON, binary, or no object goes to rejected_events; its neighbours go on."""
    with intake(service):
        service.broker.lpush(QUEUE, b"no json", b"\xff\x00\xfe", b'"text"', json.dumps(event("x")))
        assert names(passed_on(service, 1)) == ["x"]
        kept = eventually(lambda: len(service.rejected()) == 3 and service.rejected())
    bodies = {row["body"] for row in kept or []}
    assert bodies == {"no json", "data:application/octet-stream;base64,/wD+", '"text"'}


def test_another_intake_takes_over_what_a_dead_one_had_in_hand(service: Service) -> None:
    """An intake died with messages taken: after DEAD_AFTER of silence another passes them on, in their order."""
    dead = RedisList(service.broker_url)
    dead.open()
    service.broker.lpush(QUEUE, *[json.dumps(event(str(number))) for number in range(20)])
    assert len(dead.receive(15)) == 15
    with intake(service) as living:
        assert names(passed_on(service, 5)) == [str(number) for number in range(15, 20)]
        age(service)
        assert names(passed_on(service, 15)) == [str(number) for number in range(15)]
        assert living.says("took over from an intake that has died")
    assert not service.broker.exists(taken_by(dead.id))
    assert service.broker.zscore(ALIVE, dead.id) is None


def test_what_is_taken_is_always_found(service: Service) -> None:
    """A server that thaws may move messages for an intake that is gone: it is in ALIVE again, so another takes over."""
    late = RedisList(service.broker_url)
    late.open()
    service.broker.lpush(QUEUE, json.dumps(event("late")))
    late.close()  # it leaves nothing behind
    assert service.broker.zscore(ALIVE, late.id) is None
    assert late._take(5)  # what the server does when it thaws
    assert service.broker.zscore(ALIVE, late.id) is not None


def test_more_taken_than_has_arrived_means_connect_again(service: Service) -> None:
    """An answer that was lost leaves messages in hand that nobody knows of: the next sign of life notices."""
    reader = RedisList(service.broker_url)
    reader.open()
    service.broker.lpush(QUEUE, json.dumps(event("unknown")))
    reader._take(5)  # the answer is lost
    reader._signed = float("-inf")
    with pytest.raises(RedisError):
        reader.receive(5)
    reader.close()
    reader.open()
    assert [json.loads(delivery.body)["event_id"] for delivery in reader.receive(5)] == ["unknown"]
    reader.close()


def test_the_bytes_taken_at_once_are_bounded(service: Service) -> None:
    """Messages of megabytes are not all taken at once: what is above ENOUGH stays on the list."""
    service.broker.lpush(QUEUE, *[b"x" * 6_000_000] * 5)
    reader = RedisList(service.broker_url)
    reader.open()
    assert len(reader.receive(200)) == 3
    reader.close()
    assert service.broker.llen(QUEUE) == 5


def test_a_producer_that_declares_nothing_reaches_the_queue(service: Service) -> None:
    """The intake makes the binding: without one kombu on Redis drops what is published to the exchange."""
    with intake(service):
        service.broker.flushall()
    with intake(service), outside(service) as producer:
        producer.put(event("bound"))
        assert names(passed_on(service, 1)) == ["bound"]


def test_the_broker_restarts_under_load(own_broker: tuple[Service, Path]) -> None:
    """Stopped and started in the middle of a stream: each message that was taken is passed on."""
    service, home = own_broker
    stop, sent, accepted = threading.Event(), count(), set[str]()

    def load() -> None:
        with Redis.from_url(service.broker_url) as redis:
            while not stop.wait(0.002):
                name = str(next(sent))
                try:
                    redis.lpush(QUEUE, json.dumps(event(name)))
                    accepted.add(name)
                except RedisError:
                    stop.wait(0.1)

    with intake(service) as process:
        stream = threading.Thread(target=load)
        stream.start()
        try:
            eventually(lambda: waiting(service, "redirects") > 2)
            embedded.stop(home, ["broker"])
            embedded.start(home, ["broker"])
            before = len(accepted)
            eventually(lambda: len(accepted) > before + 50)
        finally:
            stop.set()
            stream.join()
        found = set[object]()

        def all_passed_on() -> bool:
            found.update(names(tasks(service)) if waiting(service, "redirects") else [])
            assert accepted <= found, f"{len(accepted - found)} of {len(accepted)} are missing"
            return True

        eventually(all_passed_on, within=20)
        assert process.running


@pytest.mark.slow
def test_the_broker_is_frozen_for_a_while(own_broker: tuple[Service, Path]) -> None:
    """SIGSTOP until the intake notices: it goes on when the broker does, and nothing stays in its hand."""
    service, home = own_broker
    pid = next(one.pid for one in embedded.status(home) if one.name == "broker")
    assert pid is not None
    with intake(service) as process:
        put(service, event("before"))
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: process.says("the JSON queue is lost"), within=20)
        finally:
            os.kill(pid, signal.SIGCONT)
        declare(service)
        put(service, *[event(str(number)) for number in range(20)])
        found = set(names(passed_on(service, 21, within=30)))
    assert found >= {"before", *(str(number) for number in range(20))}
    assert not service.broker.keys(taken_by("*"))
