"""The embedded servers when something is wrong: reused pids, taken ports, damaged files, deaths at a bad moment."""

# ruff: noqa: F401, F811 -- fixtures are imported, and then asked for by naming them
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.integration.embedded_homes import (
    SLEEP,
    NewHome,
    folder,
    home,
    memory,
    new_home,
    nothing_left_over,
    pid,
    query,
    sleeper,
    urls,
    write_memory,
)
from worker import embedded
from worker.embedded import postgres, processes
from worker.embedded.valkey import Valkey


def test_a_stranger_with_our_pid_is_left_alone(new_home: NewHome) -> None:
    """A process that was given our server's pid is no server of ours, though pid and start agree."""
    home = new_home()
    embedded.start(home, ["cache"])
    embedded.stop(home)
    with sleeper() as stranger:
        write_memory(home, "cache", pid=stranger.pid, started=processes.birth(stranger.pid))
        assert embedded.addresses(home) == {}
        assert embedded.stop(home) == []
        write_memory(home, "cache", pid=stranger.pid, started=processes.birth(stranger.pid))
        assert embedded.start(home, ["cache"])
        assert pid(home, "cache") != stranger.pid
        assert embedded.stop(home) == ["cache"]


def test_a_later_process_with_our_command_line_is_left_alone(new_home: NewHome) -> None:
    """A process that names our folder but began at another time is not the one that we started."""
    home = new_home()
    embedded.start(home, ["cache"])
    embedded.stop(home)
    with sleeper(Valkey(home, "cache", keeps=False).proof) as namesake:
        write_memory(home, "cache", pid=namesake.pid, started=processes.birth(namesake.pid) - 1)
        assert embedded.stop(home) == []


def test_a_server_that_does_not_listen_to_reason_is_killed(new_home: NewHome) -> None:
    """A frozen server is ended with SIGKILL after the polite signals were tried."""
    home = new_home()
    embedded.start(home, ["cache"])
    frozen = processes.Process(
        pid(home, "cache"), float(str(memory(home)["cache"]["started"])), str(home / "cache/valkey.conf")
    )
    os.kill(frozen.pid, signal.SIGSTOP)
    frozen.end([signal.SIGTERM], patience=0.2)
    assert not frozen.alive()
    assert embedded.status(home)[2].running is False


def test_a_server_in_the_middle_of_an_exec_is_alive(folder: Path) -> None:
    """From the moment it is on record a server counts as alive, also while its command line reads empty."""
    plan = processes.Launch(
        (*SLEEP, str(folder / "proof")), folder, str(folder / "proof"), processes.Account(prefix=("env", "env"))
    )
    for _ in range(20):
        with processes.lifeline(folder / "alive") as line:
            process = processes.launch(plan, folder / "log", line, lambda _: None)
        assert all(process.alive() for _ in range(50))
        process.end([signal.SIGTERM])


def test_a_server_that_dies_as_it_is_looked_at_leaves_no_zombie(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL takes the zombie of a killed server for one that runs, and refuses to start on its data."""
    plan = processes.Launch((*SLEEP, str(folder / "proof")), folder, str(folder / "proof"))
    with processes.lifeline(folder / "alive") as line:
        process = processes.launch(plan, folder / "log", line, lambda _: None)

    def dies(pid: int) -> list[str]:
        os.kill(pid, signal.SIGKILL)
        assert processes.until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10)
        return command_line(pid)

    command_line = processes._command_line
    monkeypatch.setattr(processes, "_command_line", dies)
    assert not process.alive()
    assert not psutil.pid_exists(process.pid)


def test_a_server_that_dies_at_its_start_says_why(new_home: NewHome) -> None:
    """The error carries the end of the server's own log."""
    home = new_home()
    embedded.start(home, ["broker"])
    embedded.stop(home)
    (home / "broker/appendonlydir/appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(embedded.ServerFailed, match="Invalid AOF manifest"):
        embedded.start(home, ["broker"])
    assert embedded.addresses(home) == {}


def test_a_starter_that_dies_before_the_note_leaves_no_server(folder: Path) -> None:
    """A server runs only after its pid is on record: one that could not be noted ends by itself."""
    seen: list[processes.Process] = []

    def disk_full(process: processes.Process) -> None:
        seen.append(process)
        raise OSError("no space left")

    plan = processes.Launch((*SLEEP, str(folder / "proof")), folder, str(folder / "proof"))
    with processes.lifeline(folder / "alive") as line, pytest.raises(OSError, match="no space"):
        processes.launch(plan, folder / "log", line, disk_full)
    assert processes.until(lambda: not seen[0].alive(), 5)


def test_data_in_use_by_an_unknown_server_get_no_second_one(home: Path, urls: dict[str, str]) -> None:
    """As long as any process of a server lives, nobody begins another on its data; the error names those to end."""
    named = rf"processes {embedded.status(home)[2].pid} \(valkey-server\), of a server that is not on record"
    with pytest.raises(embedded.ServerFailed, match=named), processes.lifeline(home / ".cache.alive", 0.1):
        pass


def test_a_lost_memory_costs_the_password_only(new_home: NewHome) -> None:
    """Without servers.json the database gets a new password and keeps its data; ruins of a killed start are cleared."""
    home = new_home()
    (ruin := home / "postgres.killed").mkdir(parents=True)
    (home / ".redirect-worker").touch()
    url = embedded.start(home, ["postgres"], durable=False)["postgres"]
    assert not ruin.exists()
    query(url, "CREATE TABLE kept AS SELECT 42 AS number")
    embedded.stop(home)
    (home / "servers.json").unlink()
    again = embedded.start(home, ["postgres"], durable=False)["postgres"]
    assert again != url
    assert query(again, "SELECT number FROM kept") == [(42,)]


def test_an_unreadable_memory_is_not_guessed_at(new_home: NewHome) -> None:
    """A damaged servers.json is an error that says what to do."""
    home = new_home()
    embedded.start(home, ["cache"])
    embedded.stop(home)
    (home / "servers.json").write_text('{"cache": {"pid": "many"}}')
    with pytest.raises(embedded.MemoryLost, match="remove the file"):
        embedded.addresses(home)
    (home / "servers.json").unlink()


def test_a_failed_creation_leaves_nothing_half_made(new_home: NewHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """When initdb fails its words are in the error, no folder remains, and the next start is a first start."""
    home = new_home()
    monkeypatch.setattr(postgres, "_INITDB", ("--encoding=nonsense",))
    with pytest.raises(embedded.ServerFailed, match="nonsense"):
        embedded.start(home, ["postgres"])
    assert [path.name for path in home.iterdir() if path.name.startswith("postgres")] == []
    assert not embedded.addresses(home)
