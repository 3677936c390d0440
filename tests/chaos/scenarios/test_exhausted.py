"""Who only watches is slow or gone, and a machine that has little of something: the redirects go on as before."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.acceptance.sentry_sink import sink
from tests.chaos.harness.latency import Clocked, latency, unchanged
from tests.chaos.harness.workload import sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.chaos.soak.growth import memory_of
from tests.culprits import BUGGY
from tests.eventually import eventually
from worker.embedded.processes import free_port

pytestmark = pytest.mark.timeout(240)
# Seconds between events: so few that none waits for another on a busy machine.
EVERY = 0.2
MIB = 1024 * 1024
# Events of the run for memory: a soak sets a million.
MANY = int(os.environ.get("REDIRECT_CHAOS_EVENTS", "20000"))


@pytest.fixture
def load(seed: int) -> Clocked:
    return Clocked(seed)


@scenario(36, "Sentry and Flower slow, then gone")
@on_both
def test_who_only_watches_delays_no_redirect(world: World, judge: Judge, load: Clocked) -> None:
    """Every tenth event meets a bug, of which Sentry is told; Flower is told of every task."""
    load.tenth = BUGGY
    with ExitStack() as stack:
        sentry = stack.enter_context(sink())
        world.start("beat", SENTRY_DSN=sentry.dsn)
        world.watch(SENTRY_DSN=sentry.dsn)
        worker = world.start("worker", "-n", "buggy@%h", "--include", "tests.killers", SENTRY_DSN=sentry.dsn)
        flower = world.start("flower", REDIRECT_FLOWER_PORT=str(free_port(None)), SENTRY_DSN=sentry.dsn)
        with sending(world.producer, load, EVERY):
            before = latency(world)
            eventually(lambda: sentry.of("worker"))
            world.fault("Sentry hangs", sentry.hanging.set)
            world.fault("Flower hangs", psutil.Process(flower.popen.pid).suspend)
            unchanged(before, latency(world))
            eventually(lambda: sentry.requests > len(sentry.envelopes))
            world.fault("Flower gone", flower.kill)
            world.fault("Sentry gone", stack.close)
            unchanged(before, latency(world))
    judge(world)
    assert worker.running
    assert {row["code"] for row in world.direct.rejected()} == {"failed"}


@scenario(36, "DNS slow, then gone")
@on_both
def test_names_that_do_not_resolve_are_waited_for(world: World, judge: Judge, load: Clocked, tmp_path: Path) -> None:
    """What is connected stays so; what has lost its connection comes back when its name does."""
    mood = tmp_path / "names"
    mood.write_text("")
    by_name = {
        "REDIRECT_TEST_NAMES": str(mood),
        "BROKER_URL": world.service.broker_url.replace("127.0.0.1", "localhost"),
        "REDIS_URL": world.service.redis_url.replace("127.0.0.1", "localhost"),
    }
    worker = world.start("worker", "--include", "tests.names", **by_name)
    world.start("beat")
    world.watch()
    with sending(world.producer, load, EVERY):
        before = latency(world)
        world.fault("DNS slow", lambda: mood.write_text("3"))
        unchanged(before, latency(world))
        world.fault("DNS gone", lambda: mood.write_text("gone"))
        world.fault("cache's connections reset", world.cache.proxy.reset)
        eventually(lambda: [row for row in world.direct.effects() if "name resolution" in (row["last_error"] or "")])
        unchanged(before, latency(world))
        world.fault("broker's connections reset", world.broker.proxy.reset)
        eventually(lambda: worker.says("Cannot connect to"))
        mood.write_text("")
        latency(world)
    judge(world)
    assert worker.running


@scenario(36, "the log's disk full")
@on_both
def test_a_log_that_cannot_be_written_stops_nothing(world: World, judge: Judge, load: Clocked) -> None:
    """No process may write to a file any more; one that fails on its log would keep the event as failed."""
    world.start_all()
    worker = world.running("worker")[0]
    with sending(world.producer, load, EVERY):
        before = latency(world)
        with limited(world, psutil.RLIMIT_FSIZE, 1):
            world.faults["disk full"] += 1
            size = worker.log.stat().st_size
            unchanged(before, latency(world))
            assert worker.log.stat().st_size == size
        latency(world)
    judge(world)
    assert world.direct.rejected() == []
    eventually(lambda: worker.log.stat().st_size > size)


@scenario(36, "64 file descriptors")
@on_both
def test_few_file_descriptors_are_enough(world: World, judge: Judge, load: Clocked) -> None:
    """For the work; and a gateway that has none for one more browser serves those it has, and the next one later."""
    world.start_all()
    gateway = world.running("gateway")[0]
    worker = psutil.Process(world.running("worker")[0].popen.pid)
    with sending(world.producer, load, EVERY), limited(world, psutil.RLIMIT_NOFILE, 64):
        for server in (world.broker, world.cache, world.database):
            world.fault("connections reset", server.proxy.reset)
        for child in worker.children():
            world.fault("a child killed", child.kill)
        latency(world)
        before = latency(world)
        world.fault("80 browsers", lambda: crowd(world, 80))
        with ExitStack() as strangers:
            for _ in range(80):
                strangers.enter_context(socket.create_connection(address(world), timeout=5))
            eventually(lambda: gateway.says("no file descriptor is left"))
            world.faults["80 connections"] += 1
            unchanged(before, latency(world))
        crowd(world, 1)
        assert all(process.num_fds() <= 64 for process in world.children())
    judge(world)
    assert gateway.log.read_text(errors="replace").count("Traceback") < 10


def address(world: World) -> tuple[str, int]:
    assert world.watcher is not None
    return "127.0.0.1", world.watcher.port


def crowd(world: World, number: int) -> None:
    """So many browsers: each is shown the conversations, or told to try again later."""
    host, port = address(world)
    with ExitStack() as browsers:
        told: list[int] = []
        for _ in range(number):
            browser = browsers.enter_context(connect(f"ws://{host}:{port}/ws", proxy=None, open_timeout=20))
            try:
                assert json.loads(browser.recv(timeout=20))["type"] == "snapshot"
                told.append(0)
            except ConnectionClosed as closed:
                told.append(closed.rcvd.code if closed.rcvd else 0)
        assert set(told) == ({0, 1013} if number > 64 else {0}), told


@contextmanager
def limited(world: World, resource: int, most: int) -> Iterator[None]:
    """No process here may have more than `most` of this, until the block ends."""
    before = psutil.Process().rlimit(resource)
    for process in world.children():
        process.rlimit(resource, (most, before[1]))
    try:
        yield
    finally:
        for process in world.children():
            process.rlimit(resource, before)


@scenario(36, f"{MANY} events")
@on_both
def test_memory_and_descriptors_are_flat(world: World, judge: Judge, load: Clocked) -> None:
    """After half as many for a warm-up: of all processes together."""
    world.start_all()
    send(world, load, MANY // 2)
    memory, descriptors = settled(world, used), settled(world, opened)
    send(world, load, MANY)
    assert settled(world, used) < memory * 1.1 + 8 * MIB
    assert settled(world, opened) <= descriptors + 8
    judge(world)


def send(world: World, load: Clocked, number: int, batch: int = 100) -> None:
    """Until they are decided."""
    for _ in range(0, number, batch):
        world.producer.send(load.events(batch))
    eventually(
        lambda: world.direct.rows("SELECT count(*) AS n FROM redirects")[0]["n"] == len(world.producer.sent), 120
    )
    eventually(lambda: world.direct.effects() == [])


def settled(world: World, measure: Callable[[World], int]) -> int:
    return min(eventually(lambda: measure(world)) for _ in range(5))


def used(world: World) -> int:
    return memory_of(world.children())


def opened(world: World) -> int:
    return sum(process.num_fds() for process in world.children())
