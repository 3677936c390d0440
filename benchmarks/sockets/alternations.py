"""The alternations of the servers, and under which conditions they were measured."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from benchmarks.machine import machine
from benchmarks.services import Services
from benchmarks.sockets import turn
from benchmarks.sockets.load import Load, possible
from benchmarks.sockets.systems import SERVERS

LIBRARIES = ("uvicorn", "websockets", "django", "channels", "channels-redis")


def measure(services: Services, asked: Load, alternations: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The part `sockets` of performance.json: complete in itself, as it may be measured again without the others."""
    load, started = possible(asked), time.monotonic()
    if load.sockets < asked.sockets:
        say(f"sockets: the limit on open files leaves {load.sockets:,} of {asked.sockets:,}")
    found: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "asked": asked.sockets,
        "sockets": load.sockets,
        "owners": load.owners,
        "rate": load.rate,
        "publishing": load.seconds,
        "alternations": alternations,
        "versions": {name: version(name) for name in LIBRARIES},
        "systems": [{"name": server.name, "label": server.label, "runs": []} for server in SERVERS],
    }
    turns = [(round_, place) for round_ in range(alternations) for place in range(len(SERVERS))]
    for done, (round_, place) in enumerate(turns):
        left = (len(turns) - done) * load.turn_seconds
        say(f"sockets: alternation {round_ + 1}/{alternations}, {SERVERS[place].name} ({left / 60:.0f} minutes left)")
        one = turn.measure(services, SERVERS[place], load)
        found["systems"][place]["runs"].append(one)
        lost = f", {one['lost']:,} frames LOST" if one["lost"] else ""
        say(
            f"  p50 {one['percentiles_ms'][50]:.1f} ms, p99 {one['percentiles_ms'][99]:.1f} ms,"
            f" {one['kib_per_socket']:.1f} KiB per socket, {one['cpu_ms']:.3f} ms CPU per frame{lost}"
        )
    return found | {"seconds": time.monotonic() - started}
