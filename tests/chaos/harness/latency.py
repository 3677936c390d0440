"""How long an event takes from its producer to the commit, by the clock of the one machine that all run on."""

import statistics
import time
from typing import Any

from tests.chaos.harness.workload import Event, Workload
from tests.chaos.harness.world import World
from tests.eventually import eventually

_COUNT = "SELECT count(*) AS n FROM redirects WHERE metadata ? 'sent'"
_WAITED = """
    SELECT extract(epoch FROM received_at)::float8 - (metadata->>'sent')::float8 AS seconds FROM redirects
    WHERE metadata ? 'sent' ORDER BY received_at DESC LIMIT :last
"""


class Clocked(Workload):
    """Each event says when it was made; every tenth has an id that begins with `tenth`, if there is one."""

    tenth = ""

    def event(self, **fields: Any) -> Event:
        event = super().event(metadata={"sent": time.time()}, **fields)
        if self.tenth and self._number % 10 == 0:
            event["event_id"] = f"{self.tenth}-{event['event_id']}"
        return event


def latency(world: World, events: int = 30) -> float:
    """The median of so many events that are decided from now on."""
    seen = _decided(world)
    eventually(lambda: _decided(world) >= seen + events, within=60)
    return float(statistics.median(row["seconds"] for row in world.direct.rows(_WAITED, last=events)))


def unchanged(before: float, now: float) -> None:
    """Whoever waits for something that hangs waits for seconds; a busy machine is not what is asked for."""
    assert now < 3 * before + 1, f"{now:.3f} s, and {before:.3f} s before"


def _decided(world: World) -> int:
    return int(world.direct.rows(_COUNT)[0]["n"])
