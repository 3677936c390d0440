"""Server processes: launched detached, recognised beyond doubt, ended; a stranger's process is never touched."""

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import psutil

from worker.errors import Permanent

LOG_LIMIT = 5_000_000  # bytes; a longer log is set aside as <name>.log.old when its server starts

# The shell becomes the server only after its pid is on record: killed before that, we leave no unknown server behind.
_GATE = 'read -r go && exec "$@" </dev/null'

# The ports that were given out last; a server listens on its port long before it falls out at the other end.
_holders: deque[int] = deque()
HELD = 64
_children: set[int] = set()  # the pids that this very process launched: dead, they are zombies until it asks for them


class ServerFailed(Permanent):
    """An embedded server did not do what it was asked; the last lines of its log say why."""


@dataclass(frozen=True)
class Account:
    """Who runs a command: `prefix` goes before it; `user` and `group` are whom to become (None: stay who we are)."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """The further groups: none for another account, unchanged for ourselves."""
        return None if self.user is None else []


@dataclass(frozen=True)
class Launch:
    """What to run, where and as whom. `proof` is an argument that no other server has in its command line."""

    command: Sequence[str]
    folder: Path
    proof: str
    account: Account = Account()


@dataclass(frozen=True)
class Process:
    """One server process: its pid, its birth, and the argument that proves what it runs."""

    pid: int
    started: float
    proof: str

    def alive(self) -> bool:
        """Whether this very process still runs: not a zombie, not a stranger who was given the same pid."""
        with suppress(psutil.Error, OSError):
            if birth(self.pid) == self.started and self.proof in _command_line(self.pid):
                return True
        _reap()
        return False

    def end(self, signals: Sequence[signal.Signals], patience: float = 10) -> None:
        """Send each signal in turn, then SIGKILL, `patience` seconds each. Raises ServerFailed if it outlives all."""
        for number in (*signals, signal.SIGKILL):
            if not self.alive():
                return
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            if until(lambda: not self.alive(), patience):
                return
        raise ServerFailed(f"process {self.pid} survived SIGKILL for {patience} s (is its disk hanging?)")


def birth(pid: int) -> float:
    """When a process began: seconds since boot on Linux, since 1970 elsewhere. Raises OSError or psutil.Error.

    psutil.create_time() adds the wall clock's idea of the boot: once the clock is stepped, our server were a stranger.
    """
    if not Path("/proc/self/stat").exists():
        return float(psutil.Process(pid).create_time())
    after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
    return int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")


def launch(plan: Launch, log: Path, lifeline: int, note: Callable[[Process], None]) -> Process:
    """Start a server in a session of its own (a terminal's Ctrl-C does not reach it); `note` writes it down first."""
    _reap()  # PostgreSQL takes the zombie of one that was killed for a server on its data
    with _opened(log) as output:
        child = subprocess.Popen(  # noqa: S603 -- the command is ours
            ["/bin/sh", "-c", _GATE, "sh", *plan.account.prefix, *plan.command],
            cwd=plan.folder,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[lifeline],
            user=plan.account.user,
            group=plan.account.group,
            extra_groups=plan.account.groups,
        )
    _children.add(child.pid)
    child.returncode = 0  # it may outlive us: a Popen that is dropped while it waits for its child complains
    assert child.stdin
    with child.stdin as gate:
        process = Process(child.pid, birth(child.pid), plan.proof)
        note(process)
        gate.write(b"go\n")
    return process


def run(account: Account, command: Sequence[str], folder: Path, commands: str = "") -> None:
    """Run a server's own tool to its end, `commands` on its standard input. Raises ServerFailed with its last words."""
    done = subprocess.run(  # noqa: S603 -- the command is ours
        [*account.prefix, *command],
        cwd=folder,
        input=commands,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=300,
        user=account.user,
        group=account.group,
        extra_groups=account.groups,
    )
    if done.returncode:
        raise ServerFailed(f"{Path(command[0]).name} failed with {done.returncode}:\n{last_lines(done.stderr)}")


@contextmanager
def lifeline(path: Path, patience: float = 10) -> Iterator[int]:
    """A locked file that a server and its children inherit: nobody gets it before the last of them is gone.

    PostgreSQL's backends may outlive a killed postmaster for a moment. Raises ServerFailed after `patience` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not until(lambda: _try_lock(descriptor), patience):
            raise ServerFailed(
                f"{_who_has(path)}, of a server that is not on record, still hold {path}: end them first"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _who_has(path: Path) -> str:
    """The other processes that have this file open, as far as they may be looked at."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and str(path.resolve()) in {file.path for file in process.open_files()}:
                found.append(f"{process.pid} ({process.name()})")
    return f"processes {', '.join(found) or 'unknown'}"


def free_port(wanted: int | None) -> int:
    """`wanted` while it is free, else another TCP port of 127.0.0.1, which no other caller gets while we hold it.

    Below 32768, where no system takes ports for outgoing connections: the port is still free after a restart.
    """
    if wanted and _can_listen(wanted):
        return wanted
    return next(filter(_held, (16384 + secrets.randbelow(16384) for _ in range(200))))


def until(fact: Callable[[], bool], seconds: float) -> bool:
    """Whether `fact` came true within `seconds`; it is asked every 20 ms."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def last_lines(text: str, count: int = 12) -> str:
    """The end of a log, for an error message."""
    return "\n".join(text.strip().splitlines()[-count:])


def _command_line(pid: int) -> list[str]:
    """Asked again while it is empty: in the middle of an exec it is, and the process is alive all the same."""
    process = psutil.Process(pid)
    words: list[str] = []

    def readable() -> bool:
        words[:] = process.cmdline()  # of a zombie this raises psutil.ZombieProcess
        return bool(words)

    until(readable, 1)
    return words


@contextmanager
def _opened(log: Path) -> Iterator[FileIO]:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_name(f"{log.name}.old"))
    log.touch(mode=0o600)
    with log.open("ab", buffering=0) as output:
        output.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: starting\n".encode())
        yield output


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def _held(port: int) -> bool:
    """Whether nobody else has the port, which is ours then: no other process is given it before its server listens.

    It is bound but never listened to: a server that reuses addresses, as each of ours does, can listen there.
    """
    holder = socket.socket()
    try:
        holder.bind(("127.0.0.1", port))
    except OSError:
        holder.close()
        return False
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _holders.append(holder.detach())
    if len(_holders) > HELD:
        os.close(_holders.popleft())
    return True


def _try_lock(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _reap() -> None:
    for pid in list(_children):
        try:
            dead = os.waitpid(pid, os.WNOHANG)[0]
        except ChildProcessError:  # after a fork they are our parent's
            dead = pid
        if dead:
            _children.discard(pid)
