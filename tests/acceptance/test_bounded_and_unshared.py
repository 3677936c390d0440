"""Invariants 7 and 8: a producer's call ends in bounded time; imports open nothing; forks share nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.typed import NOBODY, Typed, complaint
from tests.integration.embedded_homes import pid
from tests.service import Service
from worker import embedded, stack

# Seconds. Without the limits on publishing it is for ever; a ring gives up after 2 s; the rest is for a busy machine.
BOUND = 30.0


def python(service: Service, program: str, *arguments: str, **environment: str) -> Any:
    """The JSON that `program` prints; it must end within BOUND seconds."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=service.environment | environment,
        cwd=stack.ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def own_broker(service: Service, tmp_path: Path) -> Iterator[tuple[Service, int]]:
    """A service whose broker is a server of its own, and the pid of that."""
    home = tmp_path / "broker-home"
    url = embedded.start(home, ["broker"])["broker"]
    try:
        yield replace(service, broker_url=url), pid(home, "broker")
    finally:
        os.kill(pid(home, "broker"), signal.SIGCONT)
        embedded.stop(home)


RING = """
import json, os, signal, sys
from worker.app import app
from worker.tasks.doorbell import ring
KINDS = ["cache", "websocket", "record"]
first = ring(KINDS, "test")
if len(sys.argv) > 1:
    os.kill(int(sys.argv[1]), signal.SIGSTOP)
print(json.dumps([first, ring(KINDS, "test")]))
"""


def test_invariant_7_a_ring_is_dropped_when_the_broker_freezes(own_broker: tuple[Service, int]) -> None:
    """The first rings arrive; then the broker takes no more, and the next are dropped: no exception, no waiting for
    ever, and the sweep has the rows."""
    service, broker = own_broker
    assert python(service, RING, str(broker)) == [["cache", "websocket", "record"], []]


def test_invariant_7_a_ring_is_dropped_when_there_is_no_broker(service: Service) -> None:
    """Nobody listens on its port."""
    away = replace(service, broker_url=f"redis://{NOBODY}/0")
    assert python(away, RING) == [[], []]


def test_invariant_7_send_fails_soon_when_the_broker_freezes(own_broker: tuple[Service, int]) -> None:
    """One line, exit code 1."""
    service, broker = own_broker
    with Typed(service) as typed:
        os.kill(broker, signal.SIGSTOP)
        assert "nothing was sent" in complaint(typed("send", "a", "billing"))


IMPORTS = """
import sys
opened = []
def listen(event, arguments):
    # Not every socket: urllib3 asks the system whether it has IPv6, with one that it binds and closes at once.
    if event.startswith(("socket.connect", "socket.get", "socket.send", "subprocess.", "os.posix_spawn", "os.fork")):
        opened.append(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+"):
        opened.append(f"{event} {arguments}")
sys.addaudithook(listen)
import importlib, json, os, pkgutil, stat, threading
import config, worker
names = [
    module.name
    for package in (worker, config)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]
# Alembic runs this file itself, with a database at hand.
names.remove("worker.db.migrations.env")
for name in names:
    importlib.import_module(name)
def is_socket(descriptor):
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # not open
        return False
opened += [f"descriptor {descriptor}" for descriptor in range(256) if is_socket(descriptor)]
print(json.dumps([names, opened, threading.active_count()]))
"""


def test_invariant_8_importing_opens_nothing_and_needs_no_environment() -> None:
    """Every module of worker and config, in a new interpreter without one variable: no connection, no
    socket left open, no process, no thread, no file that is written."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORTS],
        env={},
        cwd=stack.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    names, opened, threads = json.loads(done.stdout)
    assert {"worker.app", "worker.cli", "worker.gateway.__main__", "worker.guard.consumer", "config.flower"} <= set(
        names
    )
    assert opened == []
    assert threads == 1


FORK = """
import json, os
from sqlalchemy import text
from worker.db.session import engine
from worker.redis_client import client

def session():
    with engine().connect() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    return [backend, client().client_id()]

before = session()
read, write = os.pipe()
for _ in range(2):
    if not os.fork():
        os.write(write, json.dumps(session()).encode() + b"\\n")
        raise SystemExit
    os.wait()
os.close(write)
children = [json.loads(line) for line in os.fdopen(read)]
print(json.dumps([before, *children, session()]))
"""


def test_invariant_8_nothing_is_shared_across_fork(service: Service) -> None:
    """Two forked children, each with connections of its own, to PostgreSQL and to Redis; when they have ended, the
    parent's are what they were, and work."""
    before, one, two, after = python(service, FORK)
    assert after == before
    for server in (0, 1):
        assert len({session[server] for session in (before, one, two)}) == 3
