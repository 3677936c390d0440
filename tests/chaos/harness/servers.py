"""The servers of one scenario, each behind a proxy, each to be stopped, killed, frozen and started again."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from tests.chaos.harness.proxy import Proxy
from tests.rabbitmq import RabbitMQ
from tests.rabbitmq_cluster import Cluster
from worker import embedded


class Server(Protocol):
    """`url` leads through `proxy`, `direct` past it."""

    proxy: Proxy
    direct: str
    url: str

    def start(self) -> object: ...
    def stop(self) -> object:
        """Orderly; its data stays."""

    def kill(self) -> object:
        """As a power cut; what it has on disk stays."""

    def processes(self) -> list[psutil.Process]: ...


def through(url: str, proxy: Proxy) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.port}", f":{proxy.port}", 1)


class Embedded:
    """PostgreSQL (`postgres`), the `broker` or the `cache`, from wheels, in a home of its own."""

    def __init__(self, home: Path, name: str, stack: ExitStack) -> None:
        self.home, self.name = home, name
        self.direct = self.start()
        stack.callback(self.stop)
        port = urlsplit(self.direct).port
        assert port is not None
        self.proxy = stack.enter_context(Proxy(port))
        self.url = through(self.direct, self.proxy)

    def start(self) -> str:
        return embedded.start(self.home, [self.name])[self.name]

    def stop(self) -> None:
        embedded.stop(self.home, [self.name])

    def kill(self) -> None:
        """All at once, as when the machine goes. PostgreSQL's backends that outlive the others may wait for ever.

        They wait for a lock of one that was killed, without a look at the postmaster (LWLockAcquireOrWait), and nobody
        can start on their data. So no backend may begin between the look at who is there and the end of the postmaster.
        """
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGSTOP)
        processes = self.processes()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10)

    def crash(self) -> None:
        """PostgreSQL's immediate stop: no checkpoint, so that the next start recovers from its log."""
        processes = self.processes()
        os.kill(self._pid, signal.SIGQUIT)
        psutil.wait_procs(processes, timeout=10)

    @property
    def _pid(self) -> int:
        pid = next(server.pid for server in embedded.status(self.home) if server.name == self.name)
        assert pid is not None, f"{self.name} does not run"
        return pid

    def processes(self) -> list[psutil.Process]:
        try:
            main = psutil.Process(self._pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Rabbit:
    """One node of RabbitMQ or a cluster (of which the proxy is before the first node), and a virtual host there."""

    def __init__(self, node: RabbitMQ | Cluster, stack: ExitStack, **vhost: str) -> None:
        self.node = node
        self.direct = node.vhost(**vhost)
        self.vhost = self.direct.rpartition("/")[2]
        self.proxy = stack.enter_context(Proxy(node.port))
        self.url = through(self.direct, self.proxy)
        self.start, self.stop, self.kill, self.processes = node.start, node.stop, node.kill, node.processes


@contextmanager
def frozen(server: Server | RabbitMQ) -> Iterator[None]:
    """SIGSTOP for all processes of a server until the block ends: it is there, and answers nothing."""
    processes = server.processes()
    _each(processes, psutil.Process.suspend)
    try:
        yield
    finally:
        _each(processes, psutil.Process.resume)


def _each(processes: Sequence[psutil.Process], signal: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
            signal(process)


@contextmanager
def down(server: Server, *, killed: bool = False) -> Iterator[None]:
    """Stopped until the block ends, with its data."""
    server.kill() if killed else server.stop()
    try:
        yield
    finally:
        server.start()
