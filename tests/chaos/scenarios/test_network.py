"""The network between the service and each of its servers: late, slow, silent, cut off."""

import time
from collections.abc import Sequence
from contextlib import closing

import pytest

from config.settings import Settings
from tests.chaos.harness import ways_in
from tests.chaos.harness.pace import Paced, longest, progress
from tests.chaos.harness.ways_in import OverHTTP
from tests.chaos.harness.workload import Event, Producer, Sent, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, scenario
from tests.service import Service
from worker.client import RedirectClient
from worker.gateway import events

pytestmark = pytest.mark.timeout(300)
# Seconds; longer than any of the limits of those who wait for this server.
SILENT = {"database": 35.0, "broker": 15.0, "cache": 10.0}
# Seconds that a busy machine may add to a limit of the product's.
SLACK = 5.0
PUBLISH = 2.0


class Stopwatch:
    """Mixed into a producer: the longest time that one call has taken, whether or not it was acknowledged."""

    longest = 0.0

    def put(self, events: Sequence[Event]) -> None:
        began = time.monotonic()
        try:
            super().put(events)  # type: ignore[misc]
        finally:
            self.longest = max(self.longest, time.monotonic() - began)


class TimedHTTP(Stopwatch, OverHTTP):
    pass


class ByClient(Producer):
    """`RedirectClient`, which producers import; acknowledged when it returns."""

    def __init__(self, service: Service, sent: Sent) -> None:
        super().__init__(service)
        self.sent, self._client = sent, RedirectClient(service.broker_url, timeout=PUBLISH)

    def put(self, events: Sequence[Event]) -> None:
        self._client.redirect_many(events)

    def close(self) -> None:
        self._client.close()
        super().close()


class TimedClient(Stopwatch, ByClient):
    pass


def of(dependency: str, broker: str) -> object:
    title = f"latency, drip, black hole, resets: {dependency}"
    return pytest.param(dependency, broker, marks=scenario(24, title), id=f"{dependency}-{broker}")


@pytest.mark.parametrize(
    ("dependency", "world"),
    [of("database", "redis"), of("cache", "redis"), of("broker", "redis"), of("broker", "rabbitmq")],
    indirect=["world"],
)
def test_no_wait_is_unbounded(dependency: str, world: World, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task, no publish and no request over HTTP takes longer than its own limit, and all goes on by itself."""
    monkeypatch.setattr(ways_in, "WITHIN", 120.0)
    worker = world.start("worker", "--include", "tests.timed")
    world.start("beat")
    world.start("intake")
    watcher = world.watch()
    sent = world.producer.sent
    with (
        closing(TimedHTTP(world.direct, sent, watcher.port)) as http,
        closing(TimedClient(world.service, sent)) as client,
        sending(world.producer, Paced(world), every=0.1),
        sending(http, Paced(world, prefix="h"), every=0.2),
        sending(client, Paced(world, prefix="c"), every=0.2),
    ):
        progress(world)
        weather(world, dependency)
    judge(world, within=90)
    assert longest(worker) < Settings().task_time_limit
    assert http.longest < events.PATIENCE + SLACK
    assert client.longest < PUBLISH + SLACK


def weather(world: World, dependency: str) -> None:
    """One after the other; under each but the black hole there is progress."""
    proxy = getattr(world, dependency).proxy
    world.faults["latency"] += 1
    proxy.latency = 0.1
    progress(world, events=10)
    proxy.heal()
    world.faults["slow drip"] += 1
    proxy.rate = 20_000
    progress(world, events=10)
    proxy.heal()
    world.fault("black hole", proxy.black_hole)
    time.sleep(SILENT[dependency])
    proxy.heal()
    progress(world)
    for _ in range(3):
        world.fault("reset", proxy.reset)
        progress(world)
