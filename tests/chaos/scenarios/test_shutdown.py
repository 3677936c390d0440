"""Workers that are told to go."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.harness.checker import group
from tests.chaos.harness.workload import sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.chaos.scenarios.test_workers import ready
from tests.eventually import eventually
from tests.service import Process

pytestmark = pytest.mark.timeout(240)
# Seconds: task_soft_time_limit, and worker_soft_shutdown_timeout with as much again for the end of the pool.
DRAINED, SOFT = 20.0, 30.0
# What tests/quitters.py says before each.
TOLD = "told to go in a commit"


def replaced(world: World, within: float, **environment: str) -> None:
    """Under load, two workers are replaced one after the other by SIGTERM to the main process."""
    old = [world.start("worker", "-n", f"old{number}@%h", **environment) for number in range(2)]
    world.start("beat")
    world.watch()
    with sending(world.producer, world.workload) as sent:
        for number, worker in enumerate(old):
            world.start("worker", "-n", f"new{number}@%h", **environment)
            world.faults["SIGTERM"] += 1
            assert ended(worker) < within
            assert worker.popen.returncode == 0
            assert not group(worker.popen.pid)
        seen = len(sent)
        eventually(lambda: len(sent) > seen + 50)


def ended(worker: Process) -> float:
    """Seconds from SIGTERM to the end."""
    began = time.monotonic()
    worker.popen.send_signal(signal.SIGTERM)
    worker.popen.wait(timeout=60)
    return time.monotonic() - began


@scenario(7, "rolling SIGTERM under load")
@on_both
def test_what_runs_is_finished_and_the_rest_is_given_back(world: World, judge: Judge) -> None:
    """Within the soft time limit, and long before the broker would take it back from a worker that was killed."""
    replaced(world, DRAINED)
    judge(world, within=40)


@scenario(7, "rolling SIGTERM, as SIGQUIT")
@on_both
def test_the_soft_shutdown_of_containers_loses_nothing(world: World, judge: Judge) -> None:
    """REMAP_SIGTERM=SIGQUIT, as docs/deploy.md has it for platforms that are in a hurry."""
    replaced(world, SOFT, REMAP_SIGTERM="SIGQUIT")
    judge(world, within=40)


@scenario(7, "SIGTERM with half a call in a pipe")
@on_both
def test_the_other_half_is_written_before_the_end(world: World, judge: Judge) -> None:
    """A call that is larger than a pipe (64 KiB on Linux) is written as it is read: here nobody reads for a while."""
    told_with_half_a_call(world, "Warm shutdown")
    judge(world, within=90)


@scenario(7, "SIGTERM, as SIGQUIT, with half a call in a pipe")
@on_both
def test_a_process_does_not_wait_for_the_other_half(world: World, judge: Judge) -> None:
    """Nor does a cold shutdown wait for such a process."""
    told_with_half_a_call(world, "Initiating Soft Shutdown", REMAP_SIGTERM="SIGQUIT")
    judge(world, within=90)


def told_with_half_a_call(world: World, says: str, **environment: str) -> None:
    worker = world.start("worker", **environment)
    children = psutil.Process(worker.popen.pid).children()
    for child in children:
        child.suspend()
    world.producer.send(world.workload.events(1000))
    for _ in range(5):
        assert world.producer.send(world.workload.events(1))
        eventually(lambda: ready(world) == 0)
    world.fault("SIGTERM", worker.popen.terminate)
    eventually(lambda: worker.says(says))
    for child in children:
        child.resume()
    worker.popen.wait(SOFT)
    assert not group(worker.popen.pid)
    world.start("worker")
    world.start("beat")
    world.watch()


@pytest.mark.timeout(600)
@scenario(8, "SIGQUIT during commits, 200 times")
@on_both
def test_a_commit_is_whole_or_nothing(world: World, judge: Judge, tmp_path: Path) -> None:
    """A child that is told to go leaves wherever it is (celery#10271); what it had in hand comes again."""
    on = tmp_path / "quit"
    on.touch()
    told = {"REDIRECT_TEST_QUIT": str(on), "REMAP_SIGTERM": "SIGQUIT"}
    worker = world.start("worker", "--include", "tests.quitters", REDIRECT_CONCURRENCY="8", **told)
    world.start("beat")
    world.watch()

    def told_to_go() -> int:
        return worker.log.read_text(errors="replace").count(TOLD)

    with sending(world.producer, world.workload, every=0.1):
        eventually(lambda: told_to_go() >= 200, within=400, every=0.5)  # a process starts for each
        on.unlink()
    world.faults["SIGQUIT"] = told_to_go()
    judge(world, within=90)
    assert world.direct.rejected() == []
    assert worker.running
