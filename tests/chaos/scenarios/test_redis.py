"""A cache and a broker that lose their data, freeze, refuse, or cut everybody off."""

import shutil
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from tests.chaos.harness.pace import Paced, all_recorded, longest, progress
from tests.chaos.harness.redis_faults import full, load, read_only, storm
from tests.chaos.harness.servers import Embedded, down, frozen
from tests.chaos.harness.workload import Event, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on, on_both, scenario
from tests.culprits import PACE, SLOW
from tests.eventually import eventually
from worker.hosts.bundled import WRITE_IF_NEWER, value
from worker.redirects import State
from worker.redis_client import key

pytestmark = pytest.mark.timeout(240)
# Seconds between messages: a busy machine keeps up.
EVERY = 0.05
FROZEN = 70.0
# Of the two that a ring waits for the broker, with what a busy machine adds.
RUNG = 10.0


@pytest.fixture(autouse=True)
def paced(world: World) -> None:
    world.workload = Paced(world)


@scenario(10, "FLUSHALL of the cache and of the broker")
@on_both
def test_the_cache_is_rebuilt_and_no_old_version_returns(world: World, judge: Judge) -> None:
    """The fence is the key itself: a late writer's old version passes where it is gone, until copies are compared.

    What waits in a flushed list is lost by definition. So a Redis broker is flushed when its redirects have been taken,
    and nothing but rings and sweeps is there.
    """
    world.start_all()
    first, second = redirected_twice(world, "late")
    with sending(world.producer, world.workload, every=EVERY):
        for _ in range(3):
            progress(world)
            world.fault("FLUSHALL of the cache", world.direct.cache.flushall)
        eventually(lambda: version(world, "late") == 2)
        assert write_late(world, first, flush=False) != first_version(first).encode()
        world.faults["FLUSHALL of the cache, and a late writer"] += 1
        assert write_late(world, first, flush=True) == first_version(first).encode()
        eventually(lambda: version(world, "late") == 2)
    if world.on_redis:
        all_recorded(world)
        world.fault("FLUSHALL of the broker", world.direct.broker.flushall)
        with sending(world.producer, world.workload, every=EVERY):
            progress(world)
    judge(world)
    assert (world.direct.cached("late") or {})["destination"] == second["destination"]


def redirected_twice(world: World, conversation_id: str) -> list[Event]:
    now = datetime.now(UTC)
    times = [(now - timedelta(seconds=ago)).isoformat() for ago in (2, 1)]
    events = [
        world.workload.event(conversation_id=conversation_id, owner_id="0", destination=destination, occurred_at=at)
        for destination, at in zip(("billing", "ai"), times, strict=True)
    ]
    for event in events:
        assert world.producer.send([event])
        all_recorded(world)
    return events


def version(world: World, conversation_id: str) -> int | None:
    return (world.direct.cached(conversation_id) or {}).get("version")


def write_late(world: World, event: Event, *, flush: bool) -> object:
    """What the key holds after a writer came late with the first version, right after a FLUSHALL or without one."""
    with Redis.from_url(world.direct.redis_url) as cache, cache.pipeline() as pipe:
        if flush:
            pipe.flushall()
        pipe.eval(WRITE_IF_NEWER, 1, key(event["conversation_id"]), first_version(event), "1", "86400")
        pipe.get(key(event["conversation_id"]))
        return pipe.execute()[-1]


def first_version(event: Event) -> str:
    at = datetime.fromisoformat(event["occurred_at"])
    return value(State(event["conversation_id"], None, event["destination"], 1, at, event["event_id"]))


@scenario(11, "broker killed, restarted without its data")
@on("redis")
def test_it_is_consumed_from_again_and_the_sweep_completes(world: World, judge: Judge) -> None:
    """Within 10 s. Copies of what was committed, for which nobody rings any more, are the sweep's."""
    assert isinstance(world.broker, Embedded)
    world.start_all()
    with down(world.cache):
        with sending(world.producer, world.workload, every=EVERY):
            progress(world)
        all_recorded(world)
        world.fault("broker killed", world.broker.kill)
        shutil.rmtree(world.broker.home / world.broker.name / "appendonlydir")
        world.broker.start()
        event = world.workload.event()
        eventually(lambda: world.producer.send([event]))
        all_recorded(world, within=10)
        assert {effect["kind"] for effect in world.direct.effects()} >= {"cache", "websocket"}
    judge(world)


@scenario(12, "the broker is frozen for 70 s")
@on_both
def test_the_dispatch_is_bounded_and_work_is_resumed(world: World, judge: Judge) -> None:
    """A redirect in hand is committed meanwhile, and its rings given up within seconds; then all goes on by itself."""
    worker = world.start("worker", "--include", "tests.killers,tests.timed")
    world.start("beat")
    world.watch()
    with sending(world.producer, world.workload, every=EVERY):
        progress(world)
    all_recorded(world)
    in_hand = [world.workload.event(event_id=f"{SLOW}-{number}") for number in range(10)]
    assert world.producer.send(in_hand)
    eventually(lambda: worker.says(f"met {SLOW}-0"))
    with frozen(world.broker), sending(world.producer, world.workload, every=EVERY):
        began = time.monotonic()
        world.faults["broker frozen"] += 1
        all_recorded(world)
        eventually(lambda: longest(worker) > PACE * len(in_hand))
        assert longest(worker) < PACE * len(in_hand) + RUNG
        time.sleep(FROZEN - (time.monotonic() - began))
    with sending(world.producer, world.workload, every=EVERY):
        progress(world, within=90)
    judge(world)


@scenario(13, "client kill storm, CLIENT PAUSE")
@on("redis")
def test_there_is_progress_after_all_were_cut_off(world: World, judge: Judge) -> None:
    """What the broker's clients had in hand is worked on at once, what was on its way to one a little later."""
    world.start_all()
    with sending(world.producer, world.workload, every=EVERY):
        progress(world)
        for name in ("cache", "broker"):
            redis: Redis = getattr(world.direct, name)
            world.faults[f"CLIENT KILL at the {name}"] += storm(redis, seconds=5)
            progress(world)
            world.fault(f"CLIENT PAUSE of the {name}", partial(redis.client_pause, 3000, all=True))
            progress(world)
    judge(world)


@scenario(14, "Redis out of memory, READONLY, LOADING")
@on("redis")
def test_what_redis_refuses_for_now_is_tried_again(world: World, judge: Judge, tmp_path: Path) -> None:
    """Transient each time: no copy is dead, no worker ends, and redirects do not wait for the cache."""
    worker = world.start("worker")
    world.start("beat")
    world.watch()
    with sending(world.producer, world.workload, every=EVERY) as sent:
        progress(world)
        for refusing, word in ((full, "OOM"), (read_only, "READONLY")):
            with refusing(world.direct.cache):
                world.faults[f"{word} at the cache"] += 1
                eventually(partial(worker.says, word))
                progress(world)
            progress(world)
            with refusing(world.direct.broker):
                world.faults[f"{word} at the broker"] += 1
                refused = len(sent.unknown)
                eventually(lambda: len(sent.unknown) > refused + 10)  # noqa: B023 - of this turn
            progress(world)
        world.fault("LOADING at the cache", partial(load, world.direct.cache, tmp_path / "other"))
        assert worker.says("loading the dataset")
        progress(world)
    # It comes back with the data of another: what waits in it is lost by definition, so that nothing does.
    all_recorded(world)
    world.fault("LOADING at the broker", partial(load, world.direct.broker, tmp_path / "another"))
    with sending(world.producer, world.workload, every=EVERY):
        progress(world)
    judge(world)
    assert worker.running


@pytest.mark.quick
@scenario(15, "SCRIPT FLUSH")
@on("redis")
def test_scripts_are_there_again_and_nobody_notices(world: World, judge: Judge) -> None:
    """No copy fails for it, nobody warns of it."""
    worker = world.start("worker")
    world.start("beat")
    world.watch()
    with sending(world.producer, world.workload, every=EVERY):
        for _ in range(12):
            world.fault("SCRIPT FLUSH of the cache", world.direct.cache.script_flush)
            world.fault("SCRIPT FLUSH of the broker", world.direct.broker.script_flush)
            progress(world, events=10)
    judge(world)
    lines = worker.log.read_text(errors="replace").splitlines()
    assert not [line for line in lines if '"level": "warning"' in line or '"level": "error"' in line]
