"""The processes of the Procfile: their commands, their environment, and running them together."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from honcho.environ import parse_procfile

ROOT = Path(__file__).resolve().parent.parent
# Seconds from SIGTERM to SIGKILL. What is killed then is not lost: an unfinished task is delivered again.
PATIENCE = 15.0
# Seconds for what they printed last to be handed on; all of it is there already.
LAST_WORDS = 2.0


def procfile() -> dict[str, str]:
    """Process type -> command, in the Procfile's order."""
    return dict(parse_procfile((ROOT / "Procfile").read_text()).processes)


def processes() -> dict[str, str]:
    """The Procfile without `release`, which runs once and ends."""
    return {name: command for name, command in procfile().items() if name != "release"}


def environment(urls: Mapping[str, str], **more: str) -> dict[str, str]:
    """This process's environment, with this Python's commands first on the path, and the URLs and settings given."""
    commands = str(Path(sys.executable).parent)
    path = os.pathsep.join([commands, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **urls, **more}


class Crew:
    """Processes that run together, each in a session of its own, so that a terminal's Ctrl-C reaches only us.

    What they print goes to `say` line by line, behind their name.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._watchers: list[threading.Thread] = []
        self._news: SimpleQueue[tuple[str, int | None]] = SimpleQueue()

    def start(self, name: str, command: str, environment: Mapping[str, str]) -> None:
        """Run a line of the Procfile."""
        process = subprocess.Popen(  # noqa: S602 - the Procfile's own line, run as a Procfile is run
            f"exec {command}",
            shell=True,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._running[name] = process
        for target, threads in ((self._hand_on, self._readers), (self._watch, self._watchers)):
            threads.append(threading.Thread(target=target, args=(name, process), daemon=True))
            threads[-1].start()

    def pids(self) -> dict[str, int]:
        """Process type -> pid of everything that was started and not collected yet."""
        return {name: process.pid for name, process in self._running.items()}

    def tell(self, news: str) -> None:
        """Make `wait` return `news` without an exit code; safe in a signal handler."""
        self._news.put((news, None))

    def told(self) -> bool:
        """Whether `wait` would return at once."""
        return not self._news.empty()

    def wait(self) -> tuple[str, int | None]:
        """Wait for what happens next: a process has ended (its name and exit code), or somebody called `tell`."""
        name, code = self._news.get()
        if name in self._running:
            self._collect(name)
        return name, code

    def end(self) -> list[str]:
        """End all that run: SIGTERM for each, SIGKILL for what is left of its group PATIENCE seconds later."""
        # Only the main process: Celery's ends its children itself, after their tasks.
        for process in self._running.values():
            os.kill(process.pid, signal.SIGTERM)
        _join(self._watchers, PATIENCE)
        ended = list(self._running)
        for name in ended:
            self._collect(name)
        _join(self._readers, LAST_WORDS)
        return ended

    def _collect(self, name: str) -> None:
        """Kill what is left of its group. Until its pid is given back below, no other group can have that number."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _hand_on(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                with suppress(OSError):  # nobody reads us any more; the process must not block on that
                    self._say(f"{name:7} | {line.decode(errors='replace').rstrip()}")

    def _watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        # WNOWAIT: it stays a zombie, and its pid taken, until it is collected.
        with suppress(ChildProcessError):  # collected first: nobody waits for news of it
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert ended
            code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            self._news.put((name, code))


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def free_port(wanted: int) -> int:
    """`wanted`, if nobody listens there on loopback, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("there is no free port on 127.0.0.1")


def listens(port: int) -> bool:
    """Whether something answers on this port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
