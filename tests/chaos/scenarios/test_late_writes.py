"""Writes that a network has kept back, and that arrive when newer ones have been made."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from redis.exceptions import RedisError

from tests.chaos.harness.pace import Paced
from tests.chaos.harness.workload import sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.eventually import eventually

pytestmark = pytest.mark.timeout(240)


@contextmanager
def each_version(world: World) -> Iterator[list[str]]:
    """What the keys went back to while the block ran, looked at all the time."""
    done, backwards, seen = threading.Event(), list[str](), dict[str, int]()
    keys = [f"ai_control_c{number}" for number in range(world.workload.conversations)]

    def look() -> None:
        while not done.wait(0.01):
            try:
                held = world.direct.cache.mget(keys)
            except RedisError:
                continue
            for key, value in zip(keys, held, strict=True):
                version = json.loads(value)["version"] if value else 0
                if version < seen.get(key, 0):
                    backwards.append(f"{key}: {version} after {seen[key]}")
                seen[key] = version

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield backwards
    finally:
        done.set()
        thread.join(10)


@scenario(37, "writes of the cache kept back, and delivered late")
@on_both
def test_no_key_goes_back_to_an_older_version(world: World, judge: Judge) -> None:
    """Nobody compares here: the fence alone keeps them out."""
    world.workload = Paced(world)
    world.start_all(REDIRECT_RECONCILE_INTERVAL="3600")
    with each_version(world) as backwards, sending(world.producer, world.workload):
        for _ in range(4):
            eventually(more_redirects(world, 30))
            world.fault("stranded", world.cache.proxy.strand)
            eventually(more_redirects(world, 60))
            world.cache.proxy.heal()
    judge(world)
    assert backwards == []


def more_redirects(world: World, number: int) -> Callable[[], bool]:
    wanted = len(world.direct.redirects()) + number
    return lambda: len(world.direct.redirects()) >= wanted
