"""PostgreSQL and two Valkeys from wheels, for whoever has none: started, found again, stopped.

They run in sessions of their own and outlive whoever started them; `<home>/servers.json` says where they are. Only a
process that is proven to be ours is ever ended. Nothing listens beyond 127.0.0.1, and every server has a password.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from worker.embedded.home import (
    LOCK,
    ForeignHome,
    MemoryLost,
    Record,
    claim,
    locked,
    recall,
    refuse_foreign,
    remember,
)
from worker.embedded.postgres import Postgres
from worker.embedded.processes import Process, ServerFailed, free_port, last_lines, launch, lifeline, until
from worker.embedded.valkey import Valkey

__all__ = ["NAMES", "ForeignHome", "MemoryLost", "ServerFailed", "ServerStatus", "addresses", "start", "status", "stop"]

NAMES = ("postgres", "broker", "cache")
READY_WITHIN = 60  # seconds: a database that was killed first replays its log


@dataclass(frozen=True)
class ServerStatus:
    """One server: `url` and `pid` as last known (None if it never ran, or was stopped), and whether it runs now."""

    name: str
    pid: int | None
    url: str | None
    running: bool


def start(
    home: Path,
    names: Sequence[str] = NAMES,
    say: Callable[[str], None] = lambda _: None,
    *,
    durable: bool = True,
) -> dict[str, str]:
    """Make each server run and answer; returns name -> URL. What runs already is left alone, whatever `durable` says.

    Ports and passwords stay as they were first chosen, unless a port has been taken meanwhile. `durable=False` lets
    PostgreSQL lose data when the machine fails: for tests. Raises ForeignHome, MemoryLost or ServerFailed; servers that
    had started by then go on running, and one that was only slow is found again by the next `start`.
    """
    servers = [_server(home.resolve(), name, durable) for name in names]
    home = claim(home)
    with locked(home):
        return {server.name: _running(home, server, say) for server in servers}


def stop(home: Path, names: Sequence[str] | None = None) -> list[str]:
    """End the servers that run, orderly if they let us; returns their names. Raises as `start` does."""
    home = home.resolve()
    servers = [_server(home, name) for name in (NAMES if names is None else names)]
    if not home.exists():
        return []
    refuse_foreign(home)
    if not (home / LOCK).exists():  # nothing was ever started here: leave no trace
        return []
    with locked(home):
        return [server.name for server in servers if _ended(home, server)]


def addresses(home: Path) -> dict[str, str]:
    """name -> URL of the servers that run now. Starts and changes nothing."""
    return {one.name: one.url for one in status(home) if one.running and one.url}


def status(home: Path) -> list[ServerStatus]:
    """Every server, running or not. Starts and changes nothing. Raises ForeignHome or MemoryLost."""
    home = home.resolve()
    if home.exists():
        refuse_foreign(home)
    records = recall(home)
    return [_status(home, name, records.get(name)) for name in NAMES]


def _status(home: Path, name: str, record: Record | None) -> ServerStatus:
    if record is None:
        return ServerStatus(name, None, None, running=False)
    return ServerStatus(name, record.pid, record.url, running=_process(_server(home, name), record) is not None)


def _server(home: Path, name: str, durable: bool = True) -> Postgres | Valkey:
    match name:
        case "postgres":
            return Postgres(home, durable)
        case "broker" | "cache":
            return Valkey(home, name, keeps=name == "broker")
    raise ValueError(f"no embedded server is called {name!r}; there are {', '.join(NAMES)}")


def _process(server: Postgres | Valkey, record: Record | None) -> Process | None:
    """The server's process, if the one on record is alive and really ours."""
    if record is None or record.pid is None or record.started is None:
        return None
    process = Process(record.pid, record.started, server.proof)
    return process if process.alive() else None


def _running(home: Path, server: Postgres | Valkey, say: Callable[[str], None]) -> str:
    """Find the server or begin it; returns its URL once it answers there."""
    known = recall(home).get(server.name)
    if known is not None and (process := _process(server, known)) is not None:
        try:
            _await(process, server, known.url, _log(home, server.name))
        except ServerFailed:
            if process.alive():
                raise
        else:
            say(f"{server.name}: already runs on port {known.port}")
            return known.url
        # It was about to end when we looked.
    process, known = _begun(home, server, known, say)
    say(f"{server.name}: started on port {known.port}")
    _await(process, server, known.url, _log(home, server.name))
    return known.url


def _begun(
    home: Path, server: Postgres | Valkey, known: Record | None, say: Callable[[str], None]
) -> tuple[Process, Record]:
    """Launch the server with the port and password it had, if it had any; it is on record before it runs."""
    password = (known and urlsplit(known.url).password) or secrets.token_hex(16)
    port = free_port(known.port if known else None)
    record = Record(port, server.url(port, password))

    def note(process: Process) -> None:
        remember(home, {server.name: replace(record, pid=process.pid, started=process.started)})

    with lifeline(home / f".{server.name}.alive") as line:
        server.prepare(port, password, known is None, say)
        return launch(server.plan(port), _log(home, server.name), line, note), record


def _await(process: Process, server: Postgres | Valkey, url: str, log: Path) -> None:
    """Wait until the server answers at `url`. Raises ServerFailed with the end of its log."""
    refusal: str | None = "was not asked yet"

    def settled() -> bool:
        nonlocal refusal
        refusal = server.refusal(url)
        # Not seen is not gone: a look at a process that begins can fail.
        return refusal is None or not until(process.alive, 0.5)

    in_time = until(settled, READY_WITHIN)
    if refusal is not None:
        fate = f"does not answer after {READY_WITHIN} s ({refusal})" if not in_time else "ended while it started"
        raise ServerFailed(f"{server.name} {fate}; {log} ends with:\n{last_lines(log.read_text(errors='replace'))}")


def _ended(home: Path, server: Postgres | Valkey) -> bool:
    """End the server and forget its pid, not its address; returns whether it ran."""
    record = recall(home).get(server.name)
    process = _process(server, record)
    if process is not None:
        process.end(server.signals)
    if record is not None and record.pid is not None:
        remember(home, {server.name: replace(record, pid=None, started=None)})
    return process is not None


def _log(home: Path, name: str) -> Path:
    folder = home / "log"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.log"
