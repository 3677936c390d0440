"""A worker kept busy, so that what is sent meanwhile waits for it; and what became of it."""

import json
from functools import partial
from typing import Any

from tests.culprits import SLOW
from tests.eventually import eventually
from tests.service import Process, Service

# One process, so that what is sent while it is busy waits; and limits that a test can wait for.
ONE = ("--include", "tests.killers", "--concurrency", "1")
SHORT = {"REDIRECT_TASK_TIME_LIMIT": "3", "REDIRECT_TASK_SOFT_TIME_LIMIT": "2"}


def event(name: str, **more: Any) -> dict[str, Any]:
    return {"event_id": name, "conversation_id": name, "destination": "billing"} | more


def names(number: int, of: str = "e") -> list[str]:
    return [f"{of}{n}" for n in range(number)]


def occupy(service: Service, worker: Process, name: str = f"{SLOW} first") -> None:
    service.send(event(name), event(f"{name}, too"), event(f"{name} as well"))
    eventually(lambda: worker.says(f"met {name}\n"))


def connected(worker: Process, times: int) -> bool:
    """Whether the worker has found its broker so often."""
    return worker.log.read_text().count("Connected to") == times


def committed(worker: Process) -> list[int]:
    """How many events each run applied."""
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if '"redirects_committed"' in line]
    return [line["applied"] for line in lines if "applied" in line]


def told(worker: Process, runs: list[int]) -> bool:
    """Whether these are the runs; each is told a moment after its commit."""
    return committed(worker) == runs


def all_applied(service: Service, wanted: list[str]) -> bool:
    return {row["event_id"] for row in service.redirects()} >= set(wanted)


def settled(service: Service, wanted: list[str]) -> None:
    """Each is applied once, every copy is written, and no message is left with the broker."""
    eventually(partial(all_applied, service, wanted), within=30)
    eventually(service.agrees, within=30)
    eventually(lambda: service.broker.llen("redirects") == service.broker.hlen("unacked") == 0)
    applied = service.rows("SELECT event_id FROM redirects WHERE outcome = 'applied'")
    assert len(applied) == len({row["event_id"] for row in applied})
