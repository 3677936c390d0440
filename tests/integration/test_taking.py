"""`redirects` on Redis: whatever ends while a message is taken, it is somewhere."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kombu import Connection, Consumer, Producer, Queue
from redis import Redis
from redis.exceptions import ResponseError

from tests.chaos.harness.proxy import Proxy
from tests.eventually import eventually
from tests.integration.groups import event, settled
from tests.service import Service
from worker import embedded
from worker.guard import taking
from worker.guard.delivery import HANDS

TRANSPORT = "worker.guard.redis_transport:Transport"
REDIRECTS = Queue("redirects", routing_key="redirects")
# Enough that a reader is never done with them.
BACKLOG = 20_000


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A Redis of this test's own, to be stopped and started: its URL and its folder."""
    home = tmp_path / "home"
    try:
        yield embedded.start(home, ["broker"])["broker"], home
    finally:
        embedded.stop(home)
        for hand in HANDS:  # kombu would put back what they hold when pytest ends, to a broker that is gone
            hand._delivered.clear()
        HANDS.clear()


def consumer(url: str, met: list[str]) -> Any:
    """Who acknowledges nothing."""

    def receive(body: str, _: Any) -> None:
        met.append(body)

    channel = Connection(url, transport=TRANSPORT, transport_options={"socket_timeout": 2}).channel()
    reader = Consumer(channel, REDIRECTS, callbacks=[receive])
    reader.consume()
    return reader


def met_after_reading(reader: Any, met: list[str]) -> list[str]:
    with suppress(ResponseError):  # a full Redis
        read(reader, within=0.1)
    return met


def publish(url: str, bodies: Sequence[str]) -> None:
    with Connection(url) as connection:
        for body in bodies:
            Producer(connection).publish(body, routing_key="redirects", declare=[REDIRECTS])


def read(reader: Any, within: float) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            reader.connection.drain_events(timeout=0.1)


def test_invariant_1_an_orderly_restart_of_redis_under_a_reader_loses_nothing(own_broker: tuple[str, Path]) -> None:
    """It ends without sending the answers of its last moment: with BRPOP a message was lost in 9 of 10."""
    url, home = own_broker
    with Connection(url) as connection:
        Producer(connection).publish("", routing_key="redirects", declare=[REDIRECTS])
    with Redis.from_url(url) as broker:
        message = json.loads(broker.lpop("redirects"))
        broker.lpush("redirects", *[json.dumps(message | {"headers": {"number": n}}) for n in range(BACKLOG)])
    for _ in range(3):
        met: list[str] = []
        reader = consumer(url, met)
        thread = threading.Thread(target=_read_until_lost, args=(reader,))
        thread.start()
        eventually(lambda: len(met) > 50, every=0.01)  # noqa: B023 - of this turn
        embedded.stop(home, ["broker"])
        thread.join()
        embedded.start(home, ["broker"])
        with Redis.from_url(url) as broker:
            assert numbers(broker) == set(range(BACKLOG))


def numbers(broker: Redis) -> set[int]:
    """Of the messages that are somewhere."""
    listed = broker.lrange("redirects", 0, -1) + broker.lrange(taking.TAKEN, 0, -1)
    messages = [json.loads(item) for item in listed] + [json.loads(note)[0] for note in broker.hvals("unacked")]
    return {message["headers"]["number"] for message in messages}


def _read_until_lost(reader: Any) -> None:
    with suppress(*reader.connection.connection_errors):
        read(reader, within=30)


def test_what_has_nobody_goes_back_as_the_next(own_broker: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader died between the two steps; another looks now and then at what was taken."""
    url, _ = own_broker
    monkeypatch.setattr(taking, "ABANDONED_AFTER", 0.3)
    publish(url, ["first", "second", "third"])
    with Redis.from_url(url) as broker:
        for _ in range(2):
            broker.lmove("redirects", taking.TAKEN, "RIGHT", "LEFT")
        abandoned = taking.Abandoned()
        abandoned.give_back(broker)
        assert broker.llen(taking.TAKEN) == 2  # may be somebody's
        time.sleep(0.3)
        taking.Abandoned().give_back(broker)
        assert broker.llen(taking.TAKEN) == 2  # seen for the first time
        abandoned.give_back(broker)
        assert broker.llen(taking.TAKEN) == 0
    met: list[str] = []
    read(consumer(url, met), within=1)
    assert met == ["first", "second", "third"]


def test_what_was_noted_meanwhile_does_not_go_back(own_broker: tuple[str, Path]) -> None:
    with Redis.from_url(own_broker[0]) as broker:
        broker.rpush("redirects", "other")
        broker.eval(taking._GIVE_BACK, 2, taking.TAKEN, "redirects", "noted")
        assert broker.lrange("redirects", 0, -1) == [b"other"]


def test_what_is_on_its_way_when_the_reader_leaves_goes_back(own_broker: tuple[str, Path]) -> None:
    """Redis was asked to wait, and answers for up to a second: nobody else waits for that message."""
    url, _ = own_broker
    reader = consumer(url, [])
    read(reader, within=0.3)

    late = threading.Timer(0.1, publish, (url, ["late"]))
    late.start()
    reader.cancel()
    late.join()
    with Redis.from_url(url) as broker:
        assert broker.llen("redirects") == 1 and not broker.exists(taking.TAKEN, "unacked")


def test_a_connection_that_went_without_a_word_is_given_up(own_broker: tuple[str, Path]) -> None:
    """The answer is overdue, and none is there to be read: the event loop would wait for ever."""
    url, _ = own_broker
    with Proxy(urlsplit(url).port or 0) as proxy:
        reader = consumer(url.replace(str(urlsplit(url).port), str(proxy.port)), [])
        channel = reader.channel
        channel.health_check_interval = 0.2
        read(reader, within=0.5)
        own = channel.taking.client.connection
        proxy.strand()
        channel.taking.check()
        assert own._sock is not None  # not overdue
        eventually(lambda: channel.taking.check() or own._sock is None, within=10)
        assert channel.taking.asked is None


def test_other_priorities_are_read_beside_a_steady_stream(service: Service) -> None:
    """Redis waits for one list; the others get their turn nevertheless."""
    done = threading.Event()

    def stream() -> None:
        number = 0
        while not done.wait(0.05):
            number += 1
            service.send(event(f"stream {number}"))

    thread = threading.Thread(target=stream)
    with service.worker(), service.beat():
        thread.start()
        try:
            for priority in (3, 6, 9):
                service.send(event(f"p{priority}"), priority=priority)
            eventually(lambda: {"p3", "p6", "p9"} <= {row["event_id"] for row in service.redirects()}, within=20)
        finally:
            done.set()
            thread.join()
        settled(service, ["p3", "p6", "p9"])
        assert service.broker.llen(taking.TAKEN) == 0


def transactions(broker: Redis) -> int:
    return int(broker.info("commandstats").get("cmdstat_exec", {}).get("calls", 0))


def test_those_that_wait_are_noted_together_and_no_more_than_the_prefetch(own_broker: tuple[str, Path]) -> None:
    url, _ = own_broker
    waiting = [f"m{number}" for number in range(3 * taking.TOGETHER)]
    prefetch = 2 * taking.TOGETHER
    publish(url, waiting)
    with Redis.from_url(url) as broker:
        before = transactions(broker)
        met: list[str] = []
        reader = consumer(url, met)
        reader.qos(prefetch_count=prefetch)
        read(reader, within=1)
        assert met == waiting[:prefetch]
        assert broker.hlen("unacked") == prefetch and broker.llen("redirects") == len(waiting) - prefetch
        assert not broker.exists(taking.TAKEN)
        assert transactions(broker) - before <= 12


def test_what_is_acknowledged_together_is_in_one_step(own_broker: tuple[str, Path]) -> None:
    url, home = own_broker
    publish(url, ["m1", "m2", "m3", "m4", "m5"])
    reader = consumer(url, [])
    read(reader, within=0.5)
    tags = list(reader.channel.qos._delivered)
    with Redis.from_url(url) as broker:
        before = transactions(broker)
        with reader.channel.together():
            for tag in tags[:3]:
                reader.channel.basic_ack(tag)
            assert broker.hlen("unacked") == len(tags)
        assert broker.hlen("unacked") == 2 and transactions(broker) - before == 1
    embedded.stop(home, ["broker"])
    with reader.channel.together():  # nobody to tell: told by the connection that comes next
        reader.channel.basic_ack(tags[3])
    embedded.start(home, ["broker"])
    met: list[str] = []
    read(consumer(url, met), within=1)
    assert met == ["m5"]


def test_what_redis_would_not_hear_is_told_when_it_does(own_broker: tuple[str, Path]) -> None:
    """All that the prefetch allows is done, but not acknowledged: nothing is read, so nothing else would tell it."""
    url, _ = own_broker
    publish(url, ["m1", "m2", "m3"])
    met: list[str] = []
    reader = consumer(url, met)
    reader.qos(prefetch_count=2)
    read(reader, within=0.5)
    assert met == ["m1", "m2"]
    with Redis.from_url(url) as broker:
        broker.replicaof("127.0.0.1", 1)
        with reader.channel.together():
            for tag in list(reader.channel.qos._delivered):
                reader.channel.basic_ack(tag)
        assert broker.hlen("unacked") == 2
        broker.replicaof("NO", "ONE")
    read(reader, within=2)
    assert met == ["m1", "m2", "m3"]


def test_what_a_full_redis_does_not_take_back_stays_in_hand_until_it_does(own_broker: tuple[str, Path]) -> None:
    """It is not noted either, so kombu would put back nothing, and forget it."""
    url, _ = own_broker
    publish(url, ["m1"])
    with Redis.from_url(url) as broker:
        broker.config_set("maxmemory", 1)
        met: list[str] = []
        reader = consumer(url, met)
        eventually(lambda: met_after_reading(reader, met) == ["m1"])
        (tag,) = reader.channel.qos._delivered
        reader.channel.basic_reject(tag, requeue=True)
        assert not broker.exists("redirects", taking.TAKEN, "unacked")
        broker.config_set("maxmemory", 0)
    eventually(lambda: met_after_reading(reader, met) == ["m1", "m1"])
