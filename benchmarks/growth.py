"""Memory of a worker: after 20,000 redirects, and after 200,000."""

import time
from collections.abc import Callable
from typing import Any

from benchmarks import throughput
from benchmarks.events import Source
from benchmarks.processes import memory
from benchmarks.services import Services
from benchmarks.systems import System, on_stage, send

STEPS = 10
# The worker comes first, then beat, then the intake.
WORKER, INTAKE = 0, 2


def measure(services: Services, system: System, seed: int, step: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Private MiB (USS) of the worker's processes and of the intake, each time after `step` more redirects."""
    source = Source(seed)
    points: list[dict[str, float]] = []
    with on_stage(services, system) as stage:
        for number in range(1, STEPS + 1):
            send(system, stage, source.take(step))
            throughput.wait_for(system, stage, number * step)
            time.sleep(1)
            worker = memory(stage.crew.processes(WORKER), "uss")
            intake = memory(stage.crew.processes(INTAKE), "uss")
            points.append({"redirects": number * step, "worker_mib": worker, "intake_mib": intake})
            say(f"memory: {number * step:,} redirects, worker {worker:.1f} MiB, intake {intake:.1f} MiB")
        system.check(stage, STEPS * step)
    return {"system": system.name, "points": points}
