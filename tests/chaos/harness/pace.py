"""How far the service has come, and how long it takes over it."""

import time
from typing import Any

from tests.chaos.harness.workload import Event, Workload
from tests.chaos.harness.world import World
from tests.eventually import eventually
from tests.service import Process

# Events that a paced workload is ahead of the ledger, and the seconds that it waits for this.
AHEAD, PATIENCE = 40, 3.0


class Paced(Workload):
    """Draws about as fast as the service works, so that a slow machine has no backlog of minutes when the load ends.

    In order of their times, so that nearly all are applied, and there is something to write for each.
    """

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(world.seed, jumps=0.01, **options)
        self._world = world

    def events(self, number: int, **fields: Any) -> list[Event]:
        until = time.monotonic() + PATIENCE
        while len(self._world.producer.sent) - recorded(self._world) > AHEAD and time.monotonic() < until:
            time.sleep(0.1)
        return super().events(number, **fields)


def recorded(world: World) -> int:
    return int(world.direct.rows("SELECT count(*) FROM redirects")[0]["count"])


def progress(world: World, events: int = 20, within: float = 60) -> None:
    """So many more events are in the ledger."""
    seen = recorded(world)
    eventually(lambda: recorded(world) >= seen + events, within)


def all_recorded(world: World, within: float = 60) -> bool:
    """Whatever was acknowledged is in the ledger, so that no redirect waits in the broker."""

    def missing() -> set[str]:
        there = {row["event_id"] for row in world.direct.rows("SELECT event_id FROM redirects")}
        return set(world.producer.sent.acknowledged) - there

    return eventually(lambda: not missing(), within)


def longest(process: Process) -> float:
    """Seconds that the longest run of any task took, of a worker with `--include tests.timed`; 0 if none has ended."""
    lines = process.log.read_text(errors="replace").splitlines()
    return max((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("took ")), default=0.0)
