"""Workers that are killed, and tasks that kill or hang them."""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import pytest
from kombu import Connection
from sqlalchemy import text

from tests.chaos.harness.checker import group
from tests.chaos.harness.ways_in import ByOutbox, OverHTTP
from tests.chaos.harness.workload import Workload, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on, on_both, scenario
from tests.culprits import DEADLY
from tests.eventually import eventually
from tests.service import Process
from worker.db.side_effects import LOST
from worker.queues import waiting

pytestmark = pytest.mark.timeout(240)
# Of a killed worker on Redis: its messages are back after this, the least that nests around the longest quick retry.
BACK = {
    "REDIRECT_VISIBILITY_TIMEOUT": "40",
    "REDIRECT_TASK_TIME_LIMIT": "5",
    "REDIRECT_TASK_SOFT_TIME_LIMIT": "4",
}
# Ends a write of records before PostgreSQL ends its wait for a lock (5 s).
SHORT = {"REDIRECT_TASK_TIME_LIMIT": "3.0", "REDIRECT_TASK_SOFT_TIME_LIMIT": "2"}
# 1 + max_retries (config/celery.py).
RUNS = 4
# For each process (config/celery.py).
PREFETCH = 100


def killed_at(world: World, failpoint: str, nth: int, *options: str) -> None:
    """Under load, a worker that ends with its whole group at the nth time it comes there; then another takes over."""
    doomed = world.start("worker", *options, REDIRECT_FAILPOINT=f"{failpoint}@{nth}", **BACK)
    world.start("beat")
    world.watch()
    with sending(world.producer, world.workload) as sent:
        eventually(lambda: not doomed.running)
        world.faults[failpoint] += 1
        world.start("worker", **BACK)
        seen = len(sent)
        eventually(lambda: len(sent) > seen + 50)


@pytest.mark.quick
@scenario(1, "SIGKILL after the commit, before the dispatch")
@on_both
def test_the_sweep_dispatches(world: World, judge: Judge) -> None:
    killed_at(world, "after_commit_before_dispatch", 10)
    judge(world, within=90)


@scenario(2, "SIGKILL before the commit")
@on_both
def test_it_is_delivered_again_and_applied_once(world: World, judge: Judge) -> None:
    killed_at(world, "before_commit", 10)
    judge(world, within=90)


@scenario(3, "SIGKILL after the write, before it is settled")
@on_both
def test_the_second_write_changes_nothing(world: World, judge: Judge) -> None:
    killed_at(world, "after_write_before_settle", 10)
    judge(world, within=90)


@scenario(4, "SIGKILL between pop and note")
@on("redis")
def test_what_is_taken_and_not_noted_goes_back(world: World, judge: Judge) -> None:
    killed_at(world, "after_pop_before_note", 20, "-Q", "redirects")
    judge(world, within=90)


@scenario(4, "SIGKILL at a delivery")
@on("rabbitmq")
def test_what_is_delivered_and_not_acknowledged_comes_again(world: World, judge: Judge) -> None:
    killed_at(world, "after_delivery", 20, "-Q", "redirects")
    judge(world, within=90)


@scenario(4, "SIGKILL of the intake between taking and passing on")
@on_both
def test_what_came_over_http_or_by_the_outbox_is_still_there(world: World, judge: Judge) -> None:
    world.start("worker")
    world.start("beat")
    watcher = world.watch()
    sent = world.producer.sent
    http = OverHTTP(world.direct, sent, watcher.port)
    outbox = ByOutbox(world.direct, sent)
    with sending(http, Workload(world.seed, prefix="h"), every=0.1), sending(outbox, world.workload, every=0.1):
        for _ in range(3):
            doomed = world.start("intake", REDIRECT_FAILPOINT="intake_after_take_before_publish@3")
            eventually(lambda: not doomed.running)  # noqa: B023 - of this turn
            world.faults["intake killed"] += 1
        world.start("intake")
        seen = len(sent)
        eventually(lambda: len(sent) > seen + 30)
    judge(world)


@scenario(5, "a task that kills its child each time")
@on_both
def test_it_is_kept_after_its_last_try_and_nobody_else_is(world: World, judge: Judge) -> None:
    """Alone or beside another in one message: 1 + max_retries runs by itself, then it is kept with its reason."""
    worker = world.start("worker", "--include", "tests.killers")
    world.start("beat")
    world.watch()
    killers = [world.workload.event(event_id=f"{DEADLY}-{n}") for n in range(2)]
    alone, inside = killers
    for message in ([alone], [inside, world.workload.event()]):
        world.producer.send(message)
    # Few enough that a loaded machine keeps up: each try stands behind what waits.
    with sending(world.producer, world.workload, every=0.1):
        eventually(lambda: len(world.direct.rejected()) == len(killers))

    met = {event["event_id"]: meetings(worker, event["event_id"]) for event in killers}
    world.faults["a child killed"] = sum(met.values())
    # Once more in a group with other messages, if one was there; and once in one message with the other.
    assert RUNS <= met[alone["event_id"]] <= RUNS + 1, met
    assert RUNS <= met[inside["event_id"]] <= RUNS + 2, met
    judge(world)
    kept = {(json.loads(row["body"])["event_id"], row["code"]) for row in world.direct.rejected()}
    assert kept == {(event["event_id"], "worker_lost") for event in killers}
    assert worker.running


def meetings(worker: Process, event_id: str) -> int:
    return worker.log.read_text(errors="replace").count(f"met {event_id}\n")


@scenario(6, "SIGKILL of the main process with a full prefetch")
@on_both
def test_all_of_it_comes_again_and_no_child_is_left(world: World, judge: Judge) -> None:
    doomed = world.start("worker", REDIRECT_CONCURRENCY="1", **BACK)
    children = psutil.Process(doomed.popen.pid).children(recursive=True)
    for child in children:
        child.suspend()
    world.producer.send_all(world.workload.events(PREFETCH + 50))
    eventually(lambda: ready(world) <= 50)
    world.fault("main process killed", lambda: os.kill(doomed.popen.pid, signal.SIGKILL))
    doomed.popen.wait(10)
    for child in children:
        child.resume()
    eventually(lambda: not group(doomed.popen.pid), within=20)

    world.start("worker", **BACK)
    world.start("beat")
    world.watch()
    judge(world, within=90)


def ready(world: World) -> int:
    """The messages on `redirects` that no worker has taken."""
    if world.on_redis:
        return int(world.direct.broker.llen("redirects"))
    with Connection(world.direct.broker_url) as connection:
        return waiting(connection, "redirects") or 0


@scenario(9, "hard time limit inside an effect")
@on_both
def test_it_is_retried_by_its_row(world: World, judge: Judge) -> None:
    """The host's own transaction holds the records for longer than a task may take; SIGKILL, and the row knows it."""
    worker = world.start("worker", **SHORT)
    world.start("beat")
    world.watch()
    with sending(world.producer, world.workload, every=0.1) as sent:
        eventually(lambda: len(world.direct.rows("SELECT id FROM conversations")) > 10)
        with held(world):
            eventually(lambda: worker.says(f"Hard time limit ({SHORT['REDIRECT_TASK_TIME_LIMIT']}"), within=40)
            eventually(lambda: lost(world))
            world.faults["hard time limit"] = worker.log.read_text(errors="replace").count("Hard time limit")
        seen = len(sent)
        eventually(lambda: len(sent) > seen + 20)
    judge(world, within=90)


@contextmanager
def held(world: World) -> Iterator[None]:
    """Every record is locked until the block ends."""
    with world.direct.engine.begin() as connection:
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        connection.execute(text("SELECT FROM conversations FOR UPDATE"))
        yield


def lost(world: World) -> list[Mapping[str, object]]:
    """The records that a claim counts as failed, because nobody has come back from writing them."""
    return [row for row in world.direct.effects() if row["kind"] == "record" and LOST in (row["last_error"] or "")]
