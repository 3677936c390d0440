"""`up`: the embedded servers that are needed, the schema, and every process of the Procfile, until Ctrl-C."""

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
from honcho.compat import ProcessManager
from honcho.manager import Manager

from config.settings import EMBEDDED, Settings
from worker import embedded, stack
from worker.db import migrations
from worker.errors import Permanent

# Seconds until the addresses are printed even if something does not answer yet.
READY_WITHIN = 60.0


class AlreadyUp(Permanent):
    """Another `up` runs in this home."""


def up(settings: Settings, say: Callable[[str], None]) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code. Raises AlreadyUp, which says what runs where."""
    wanted = [field for field in EMBEDDED if getattr(settings, field) is None]
    served = embedded.start(settings.home, [EMBEDDED[field] for field in wanted], say)
    urls = {field.upper(): settings.url(field) for field in EMBEDDED}
    with _alone(settings) as note:
        try:
            migrations.upgrade(urls["DATABASE_URL"])
            return _run(settings, urls, note, say)
        finally:
            stopped = embedded.stop(settings.home, list(served))
            say(f"stopped: {', '.join(stopped)}" if stopped else "stopped")


@contextmanager
def _alone(settings: Settings) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Hold the home's `up.lock`, whose content says who runs here; yields what writes it."""
    with (settings.home / "up.lock").open("a+") as lock:
        lock.seek(0)
        known = lock.read()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUp(_whereabouts(known)) from None
        _end_orphans(json.loads(known or "{}"))

        def note(facts: Mapping[str, Any]) -> None:
            lock.truncate(0)
            lock.write(json.dumps(facts))
            lock.flush()

        note({})
        yield note
        note({})


def _whereabouts(known: str) -> str:
    facts = json.loads(known or "{}")
    lines = [f"  {name:8} {address}" for name, address in facts.get("addresses", {}).items()]
    return "\n".join([f"already running (pid {facts.get('pid', '?')}), stop it with Ctrl-C there:", *lines])


def _end_orphans(facts: Mapping[str, Any]) -> None:
    """End the processes of an `up` that was killed: by pid and birth, so that a reused pid is left alone."""
    for pid, born in facts.get("processes", []):
        try:
            if psutil.Process(pid).create_time() == born:
                os.killpg(pid, 15)
        except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            continue


class _Gently(ProcessManager):  # type: ignore[misc]
    """Ends a process, not its group: Celery's main process ends its children itself, after their tasks."""

    def terminate(self, pid: int) -> None:
        os.kill(pid, 15)


def _run(
    settings: Settings, urls: Mapping[str, str], note: Callable[[Mapping[str, Any]], None], say: Callable[[str], None]
) -> int:
    ports = {"PORT": stack.free_port(settings.port), "REDIRECT_FLOWER_PORT": stack.free_port(settings.flower_port)}
    log_format = "text" if settings.log_format == "auto" and sys.stdout.isatty() else settings.log_format
    shared = {name: str(port) for name, port in ports.items()} | {"REDIRECT_LOG_FORMAT": log_format}
    environment = stack.environment(urls, **shared, REDIRECT_HOME=str(settings.home.resolve()))
    manager = Manager()
    manager._procmgr = _Gently()
    for name, command in stack.processes().items():
        manager.add_process(name, f"exec {command}", env=environment, cwd=str(stack.ROOT))
    addresses = {
        "page": f"http://127.0.0.1:{ports['PORT']}/docs",
        "live": f"ws://127.0.0.1:{ports['PORT']}/ws",
        "flower": f"http://127.0.0.1:{ports['REDIRECT_FLOWER_PORT']}",
    }

    def announce() -> None:
        _wait(lambda: all(stack.listens(port) for port in ports.values()))
        born = [psutil.Process(facts["pid"]) for facts in manager._processes.values() if "pid" in facts]
        note(
            {
                "pid": os.getpid(),
                "addresses": addresses,
                "processes": [[process.pid, process.create_time()] for process in born],
            }
        )
        say(_banner(addresses))

    threading.Thread(target=announce, daemon=True).start()
    manager.loop()
    stopped_by_hand = manager.returncode in {130, 143}
    return 0 if stopped_by_hand else int(manager.returncode or 1)


def _wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.2)


def _banner(addresses: Mapping[str, str]) -> str:
    return "\n".join(
        [
            "",
            "The redirect worker is up.",
            f"  reads and their documentation   {addresses['page']}",
            f"  live updates (WebSocket)        {addresses['live']}",
            f"  Flower                          {addresses['flower']}",
            "Redirect a conversation, from another terminal:",
            "  .venv/bin/redirect-worker send abc123 billing --reason 'asked for a refund'",
            "  .venv/bin/redirect-worker show abc123",
            "Ctrl-C stops everything.",
            "",
        ]
    )
