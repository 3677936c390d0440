"""A deployment under load: workers of before beside new ones, each ended by SIGTERM and replaced in its turn."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery import Celery

from tests.eventually import eventually
from tests.integration.ledgers import event
from tests.service import WORKER, Process, Service
from worker.db import migrations

ROOT = Path(__file__).resolve().parents[2]
NEWEST = "worker/db/migrations/versions/0006_operations.py"
# The tables as the version before has them.
BEFORE = "0005"
# Longer than by default, so that whoever waited for a sweep is seen.
SWEEP = {"REDIRECT_SWEEP_INTERVAL": "10"}

BROKERS = ["service", "rabbit_service"]

WAITED = """
    SELECT (metadata->>'sent')::float8 AS sent,
        (extract(epoch FROM received_at) - (metadata->>'sent')::float8)::float8 AS seconds
    FROM redirects ORDER BY sent
"""


def git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True, timeout=60).stdout


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The code before the newest revision of the schema, from the history of this checkout."""
    added = git("log", "--diff-filter=A", "--format=%H", "--", NEWEST).decode().split()
    if not added:
        pytest.skip("there is no history here")
    archive = git("archive", f"{added[-1]}^", "worker", "config")
    folder = tmp_path / "older"
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True, timeout=60)
    return folder


def worker(service: Service, code: Path, name: str) -> Process:
    """A worker that runs `code`, once it is ready."""
    log = service.folder / f"{name}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker.app", *WORKER, f"--hostname={name}@here"],
            cwd=code,
            env=service.environment | SWEEP,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process(popen, log)
    eventually(lambda: process.says(" ready.") or not process.running)
    assert process.running, log.read_text()
    return process


def end(process: Process) -> float:
    """As systemd and Kubernetes end it. Returns the seconds it took."""
    begun = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(timeout=60) == 0, process.log.read_text()[-3000:]
    return time.monotonic() - begun


@dataclass(frozen=True)
class Wait:
    """When an event was sent (seconds since 1970), and how long it was on its way to the table, in seconds."""

    sent: float
    seconds: float


@dataclass(frozen=True)
class Restart:
    """What each event waited, in the order of sending; what each old worker took to end; when the last had ended."""

    waits: list[Wait]
    took: list[float]
    only_new: float

    @property
    def longest(self) -> float:
        """What is lost waits for the visibility timeout, two minutes; nobody waits longer than a sweep, beyond what
        this machine takes anyway.
        """
        return float(SWEEP["REDIRECT_SWEEP_INTERVAL"]) + 5 * max(wait.seconds for wait in self.waits[:20])


def worth_reading(service: Service, restart: Restart) -> str:
    """Who waited for long, and what the processes have complained of."""
    said = [
        f"{log.name}: {line}"
        for log in sorted(service.folder.glob("*.log"))
        for line in log.read_text(errors="replace").splitlines()
        if '"level": "info"' not in line and line.strip()
    ]
    late = {f"e{number}": round(wait.seconds, 1) for number, wait in enumerate(restart.waits) if wait.seconds > 3}
    return "\n".join([f"late: {late}", *said[-200:]])


@contextmanager
def load(service: Service) -> Iterator[list[str]]:
    """One event each 100 ms until the block ends, each sent by name; the ids of those that were sent."""
    sent: list[str] = []
    done = threading.Event()

    def send() -> None:
        with Celery("outside", broker=service.broker_url) as producer:
            while not done.wait(0.1):
                name = f"e{len(sent)}"
                one = event(
                    name, "billing" if len(sent) % 3 else "ai", f"c{len(sent) % 50}", metadata={"sent": time.time()}
                )
                producer.send_task("redirect_conversation", args=[one], queue="redirects")
                sent.append(name)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        done.set()
        thread.join(30)


def rolling_restart(service: Service, code: Path, migrate: Callable[[], None]) -> Restart:
    """Migrate under load, replace the workers of `code` in turn, then a new one too. Every event is decided once, and
    no copy is left behind.
    """
    running = [worker(service, code, "old-1"), worker(service, code, "old-2")]
    took = []
    try:
        # A new beat asks for what the old version does not know, and its workers park that.
        known = {"REDIRECT_RECONCILE_INTERVAL": "3600"}
        with service.beat(**SWEEP, **known), load(service) as sent:
            eventually(lambda: len(sent) > 30)
            migrate()
            for number, old in enumerate(list(running), start=1):
                running.append(worker(service, ROOT, f"new-{number}"))
                eventually(lambda: len(sent) > 30 + 30 * number)  # noqa: B023 - of this turn
                took.append(end(old))
            only_new = time.time()
            running.append(worker(service, ROOT, "new-3"))
            end(running[2])
            soon = len(sent) + 30
            eventually(lambda: len(sent) > soon)
        eventually(lambda: len(service.redirects()) == len(sent), within=60)
        eventually(service.agrees, within=60)
    finally:
        for process in running:
            process.kill()

    assert {row["event_id"] for row in service.redirects()} == set(sent)
    assert service.rejected() == []
    return Restart([Wait(**row) for row in service.rows(WAITED)], took, only_new)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_rolling_restart_loses_nothing_and_keeps_nobody_waiting(broker: str, request: pytest.FixtureRequest) -> None:
    """This version, beside itself: nothing waits as what is lost would."""
    service: Service = request.getfixturevalue(broker)
    restart = rolling_restart(service, ROOT, lambda: None)
    assert max(wait.seconds for wait in restart.waits) < restart.longest, worth_reading(service, restart)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", BROKERS)
def test_the_version_before_is_replaced_on_the_new_schema(
    broker: str, older: Path, request: pytest.FixtureRequest
) -> None:
    """Only that version gives back what it took in its last moment when it has ended, and may wait half a minute for
    that (test_given: this version does neither).
    """
    service: Service = request.getfixturevalue(broker)
    migrations.downgrade(service.database_url, BEFORE)
    restart = rolling_restart(service, older, lambda: migrations.upgrade(service.database_url))
    late = worth_reading(service, restart)
    assert max(wait.seconds for wait in restart.waits) < restart.longest + max(restart.took), late
    assert max(wait.seconds for wait in restart.waits if wait.sent > restart.only_new) < restart.longest, late
    counted = service.rows("SELECT sum(value) AS copies FROM counters WHERE name = 'copy_seconds'")
    assert counted[0]["copies"] > 0
