"""`up`: the embedded servers that are needed, the schema, and every process of the Procfile, until Ctrl-C."""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from config.settings import EMBEDDED, Settings
from worker import development, embedded, stack
from worker.embedded.home import write_private
from worker.embedded.processes import Process, birth
from worker.errors import Permanent

# Seconds until the addresses are printed even if something does not answer yet.
READY_WITHIN = 60.0


class AlreadyUp(Permanent):
    """Another `up` runs in this home."""


def up(settings: Settings, say: Callable[[str], None]) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; returns the exit code. Raises AlreadyUp, which says what runs where."""
    embedded.start(settings.home, [])  # starts nothing; the home is ours from here on
    served = [server for field, server in EMBEDDED.items() if getattr(settings, field) is None]
    with _alone(settings.home, say) as note:
        crew = stack.Crew(say)
        _listen(crew)
        try:
            return _run(settings, crew, served, note, say)
        finally:
            stopped = crew.end() + embedded.stop(settings.home, served)
            say(f"stopped: {', '.join(stopped)}")


@contextmanager
def _alone(home: Path, say: Callable[[str], None]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Hold the home's `up.lock`; yields what writes down, in `up.json`, who runs here."""
    facts = home / "up.json"
    with (home / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUp(_whereabouts(_known(facts))) from None
        _end_orphans(_known(facts), say)

        def note(more: Mapping[str, Any]) -> None:
            write_private(facts, json.dumps({"pid": os.getpid(), **more}).encode())

        note({})
        yield note
        facts.unlink()


def _known(facts: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(facts.read_text())
    except (OSError, ValueError):
        return {}
    return known


def _whereabouts(known: Mapping[str, Any]) -> str:
    lines = [f"  {name:8} {address}" for name, address in known.get("addresses", {}).items()]
    return "\n".join([f"already running (pid {known.get('pid', '?')}), stop it with Ctrl-C there:", *lines])


def _end_orphans(known: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """End the processes of an `up` that was killed: only those that are proven to be the ones on record."""
    orphans = [Process(*noted) for noted in known.get("processes", ())]
    for orphan in orphans:
        if orphan.alive():
            say(f"ending process {orphan.pid} of an `up` that was killed")
            children = psutil.Process(orphan.pid).children(recursive=True)
            orphan.end([signal.SIGTERM], stack.PATIENCE)
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def _listen(crew: stack.Crew) -> None:
    """Signals are news for the crew, not exceptions: nothing that is being started is lost half way."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup keeps its promise
            signal.signal(number, lambda number, _frame: crew.tell(signal.Signals(number).name))


def _run(
    settings: Settings,
    crew: stack.Crew,
    served: Sequence[str],
    note: Callable[[Mapping[str, Any]], None],
    say: Callable[[str], None],
) -> int:
    for server in served:
        embedded.start(settings.home, [server], say)
        if crew.told():
            return _over(crew.wait(), say)
    environment = _environment(settings)
    crew.start("release", stack.procfile()["release"], environment)
    if (news := crew.wait()) != ("release", 0):
        return _over(news, say)
    ports = _ports(settings, say)
    environment |= {name: str(port) for name, port in ports.items()}
    addresses = _addresses(ports)
    for name, command in stack.processes().items():
        crew.start(name, command, environment)
        note({"addresses": addresses, "processes": _identities(crew)})
    threading.Thread(target=_announce, args=(ports, addresses, say), daemon=True).start()
    return _over(crew.wait(), say)


def _over(news: tuple[str, int | None], say: Callable[[str], None]) -> int:
    """The exit code."""
    name, code = news
    if code is None:
        say(f"{name}: stopping")
        return 0
    say(f"{name} has ended by itself (exit code {code}): stopping the rest")
    return max(code, 1)


def _environment(settings: Settings) -> dict[str, str]:
    urls = {field.upper(): settings.url(field) for field in EMBEDDED}
    log_format = "text" if settings.log_format == "auto" and sys.stdout.isatty() else settings.log_format
    own = {"REDIRECT_LOG_FORMAT": log_format, "REDIRECT_HOME": str(settings.home.resolve())}
    return stack.environment(urls, **own, **development.environment(settings))


def _ports(settings: Settings, say: Callable[[str], None]) -> dict[str, int]:
    wanted = {"PORT": settings.port, "REDIRECT_FLOWER_PORT": settings.flower_port}
    ports = {name: stack.free_port(port) for name, port in wanted.items()}
    for name, port in ports.items():
        if wanted[name] not in (0, port):
            say(f"port {wanted[name]} ({name}) is taken: using {port}")
    return ports


def _addresses(ports: Mapping[str, int]) -> dict[str, str]:
    return {
        "page": f"http://127.0.0.1:{ports['PORT']}/",
        "api": f"http://127.0.0.1:{ports['PORT']}/docs",
        "live": f"ws://127.0.0.1:{ports['PORT']}/ws",
        "flower": f"http://127.0.0.1:{ports['REDIRECT_FLOWER_PORT']}",
    }


def _identities(crew: stack.Crew) -> list[tuple[int, float, str]]:
    """What `_end_orphans` needs to know each process again: its pid, its birth, and the last word of its command."""
    commands = stack.processes()
    return [
        (pid, birth(pid), commands[name].rsplit(maxsplit=1)[-1])
        for name, pid in crew.pids().items()
        if name in commands
    ]


def _announce(ports: Mapping[str, int], addresses: Mapping[str, str], say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and not all(stack.listens(port) for port in ports.values()):
        time.sleep(0.2)
    say(_banner(addresses))


def _banner(addresses: Mapping[str, str]) -> str:
    return "\n".join(
        [
            "",
            "The redirect worker is up.",
            f"  the page           {addresses['page']}",
            f"  HTTP, documented   {addresses['api']}",
            f"  live (WebSocket)   {addresses['live']}",
            f"  Flower             {addresses['flower']}",
            "Redirect a conversation, from another terminal:",
            "  .venv/bin/redirect-worker send abc123 billing --reason 'asked for a refund'",
            "  .venv/bin/redirect-worker show abc123",
            "A token for other clients:",
            "  .venv/bin/redirect-worker token",
            "Ctrl-C stops everything.",
            "",
        ]
    )
