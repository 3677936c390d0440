"""One turn of one server: all sockets open, each with its snapshot; then updates at a steady rate."""

import asyncio
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import READY_WITHIN, Crew, NotReady, cpu_seconds, memory
from benchmarks.services import Services
from benchmarks.sockets.account import account
from benchmarks.sockets.listeners import Heard, Listeners
from benchmarks.sockets.load import Load, Update
from benchmarks.sockets.systems import SocketServer
from worker.embedded.processes import free_port
from worker.gateway.tokens import issue

SECRET = secrets.token_hex(32)
# Seconds before memory is read and updates begin, and after the last frame: what was begun is done.
SETTLE = 2.0
LIFETIME = 3000.0


@dataclass(frozen=True)
class _Reading:
    clock: float
    server: float
    stores: float
    listeners: float
    publisher: float


def measure(services: Services, server: SocketServer, load: Load) -> dict[str, Any]:
    """Latencies, memory and CPU of one turn. Raises CheckFailed when a frame is not where it should be."""
    updates = load.updates()
    tokens = [issue(SECRET, LIFETIME, [str(owner)]) for owner in range(load.owners)]
    with _serving(services, server, load) as (crew, port), Listeners() as listeners:

        def read() -> _Reading:
            parties = (crew.processes(), services.processes(), [listeners.process], [psutil.Process()])
            return _Reading(time.perf_counter(), *map(cpu_seconds, parties))

        empty = memory(crew.processes(), "uss")
        opened = listeners.open(port, tokens, load.per_owner, server.compression)
        time.sleep(SETTLE)
        before = read()
        sent, late = asyncio.run(_publish(server, services.urls["cache"], updates, load.rate))
        listeners.wait_for(len(updates) * load.per_owner)
        after = read()
        time.sleep(SETTLE)
        crew.must_run()
        full = memory(crew.processes(), "uss")
        heard = listeners.heard()
    return {
        "open_seconds": opened,
        "late_ms": 1000 * late,
        **account(load, updates, sent, heard, server.may_lose),
        "empty_mib": empty,
        "full_mib": full,
        "kib_per_socket": 1024 * (full - empty) / load.sockets,
        **_used(before, after, len(updates), heard),
    }


def _used(before: _Reading, after: _Reading, updates: int, heard: Heard) -> dict[str, float]:
    """CPU: milliseconds per frame or update, and percent of one core until the last frame came."""
    frames = len(heard.frames)
    percent = 100 / (max(moment for _, _, moment in heard.frames) - before.clock)
    return {
        "cpu_ms": 1000 * (after.server - before.server) / frames,
        "cpu_percent": percent * (after.server - before.server),
        "stores_cpu_ms": 1000 * (after.stores - before.stores) / updates,
        "listeners_percent": percent * (after.listeners - before.listeners),
        "publisher_percent": percent * (after.publisher - before.publisher),
    }


async def _publish(
    server: SocketServer, redis_url: str, updates: Sequence[Update], rate: float
) -> tuple[list[float], float]:
    """When each was sent, by a schedule that waits for no listener, and by how many seconds one was late at most."""
    sent, late = [], 0.0
    async with server.publisher(redis_url) as publish:
        begin = time.perf_counter()
        for number, update in enumerate(updates):
            due = begin + number / rate
            await asyncio.sleep(due - time.perf_counter())
            sent.append(time.perf_counter())
            late = max(late, sent[-1] - due)
            await publish(str(update.owner), update.text)
    return sent, late


@contextmanager
def _serving(services: Services, server: SocketServer, load: Load) -> Iterator[tuple[Crew, int]]:
    """The server's process and its port, on stores of its own; all of it gone when the block ends."""
    database = services.fresh()
    crew = Crew(Path(tempfile.mkdtemp(dir=services.folder)), services.environment(database, "redis"))
    try:
        load.fill(database)
        port = free_port(None)
        server.start(crew, port, SECRET)
        _wait_for(port, crew)
        yield crew, port
    finally:
        crew.end()
        services.drop(database)


def _wait_for(port: int, crew: Crew) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        crew.must_run()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise NotReady(f"nothing listens after {READY_WITHIN:g} s:\n{crew.last_words()}")
