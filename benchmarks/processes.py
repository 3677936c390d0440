"""The processes of the system under test: started in sessions of their own, measured, paused, ended by their ids."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN = 60.0


class NotReady(RuntimeError):
    """A process ended, or did not say that it is ready; its log says why."""


@dataclass
class Crew:
    """What one system runs as."""

    folder: Path
    environment: Mapping[str, str]
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _logs: list[Path] = field(default_factory=list)

    def start(self, *command: str, ready: str | None = None, times: int = 1, **environment: str) -> None:
        """Start `python -m <command>` and wait until its log says `ready`, `times` times."""
        log = self.folder / f"{len(self._logs)}-{command[0].rpartition('.')[2]}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(  # noqa: S603 - the command is ours
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(popen)
        self._logs.append(log)
        deadline = time.monotonic() + READY_WITHIN
        while ready is not None and log.read_text(errors="replace").count(ready) < times:
            self.must_run()
            if time.monotonic() > deadline:
                raise NotReady(f"{' '.join(command)} is not ready after {READY_WITHIN:g} s:\n{self.last_words()}")
            time.sleep(0.05)

    def must_run(self) -> None:
        """Raise NotReady when one has ended by itself."""
        for popen in self._started:
            if popen.poll() is not None:
                raise NotReady(f"a process has ended with {popen.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of each log."""
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in self._logs)

    def processes(self, which: int | None = None) -> list[psutil.Process]:
        """All processes in the sessions that were started (or in one of them): also children whose parent is gone."""
        sessions = {popen.pid for popen in (self._started if which is None else [self._started[which]])}
        found = []
        for pid in psutil.pids():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(pid) in sessions:
                    found.append(psutil.Process(pid))
        return found

    def pause(self) -> None:
        """Nothing of it runs until `resume`, not even to take a message that arrives."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """At once: what is measured is over, and nothing here is to be kept."""
        self._signal(signal.SIGKILL)
        for popen in self._started:
            popen.wait(timeout=10)
        psutil.wait_procs(self.processes(), timeout=10)
        self._started.clear()

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                os.kill(process.pid, number)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """User and system time of `processes` and of the children that each has outlived."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(processes: Iterable[psutil.Process], share: str = "pss") -> float:
    """MiB of `processes`: `pss` counts a page that n processes share as 1/n of it, `uss` only private pages."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += getattr(process.memory_full_info(), share)
    return total / 2**20
