"""Throughput from a backlog until the last copy, with what it took: CPU, statements, memory."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.checks import CheckFailed
from benchmarks.events import Event
from benchmarks.processes import cpu_seconds, memory
from benchmarks.systems import Stage, System, send

# Seconds between two looks at the peak of the memory.
SAMPLE = 0.5
# Seconds: whatever a system does, its run ends. Ten times what the slowest needs where nothing else runs.
PATIENCE, LONGEST = 60.0, 900.0
SLOWEST = 5.0  # redirects per second


@dataclass(frozen=True)
class _Reading:
    clock: float
    system_cpu: float
    server_cpu: float
    statements: int


def warm_up(system: System, stage: Stage, events: Sequence[Event]) -> None:
    """Send `events` and wait until all is done: processes, connections and caches are as they are at work."""
    send(system, stage, events)
    wait_for(system, stage, len(events))
    time.sleep(0.5)  # the last acknowledgements


def measure(system: System, stage: Stage, events: Sequence[Event], done_before: int) -> dict[str, Any]:
    """The processes stand still (SIGSTOP) while the backlog is filled. The clock starts when they go on, and stops when
    every event is accounted for and no copy is left to write.
    """
    stage.crew.pause()
    send(system, stage, events)
    with _peak(stage) as peak:
        before = _read(stage)
        stage.crew.resume()
        wait_for(system, stage, done_before + len(events))
        after = _read(stage)
    count, seconds = len(events), after.clock - before.clock
    return {
        "events": count,
        "seconds": seconds,
        "rate": count / seconds,
        "cpu_ms": 1000 * (after.system_cpu - before.system_cpu) / count,
        "server_cpu_ms": 1000 * (after.server_cpu - before.server_cpu) / count,
        "statements": (after.statements - before.statements) / count,
        "peak_mib": max(peak),
    }


def wait_for(system: System, stage: Stage, total: int) -> None:
    """Until `total` events are accounted for and all copies are written."""
    started = time.monotonic()
    deadline = started + min(LONGEST, PATIENCE + total / SLOWEST)
    while (found := system.accounted(stage)) < total:
        _still(stage, deadline, f"{found} of {total} events are accounted for")
        time.sleep(min(0.25, max(0.02, (time.monotonic() - started) / 50)))
    while not system.settled(stage):
        _still(stage, deadline, "copies are not written")
        time.sleep(0.01)


def _still(stage: Stage, deadline: float, state: str) -> None:
    stage.crew.must_run()
    if time.monotonic() > deadline:
        raise CheckFailed(f"out of time: {state}\n{stage.crew.last_words()}")


def _read(stage: Stage) -> _Reading:
    return _Reading(
        clock=time.monotonic(),
        system_cpu=cpu_seconds(stage.crew.processes()),
        server_cpu=cpu_seconds(stage.services.processes()),
        statements=stage.database.statements(),
    )


@contextmanager
def _peak(stage: Stage) -> Iterator[list[float]]:
    """MiB of the system's processes together, a sample for each moment; one at the end at least."""
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE):
            samples.append(memory(stage.crew.processes()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
    samples.append(memory(stage.crew.processes()))
