"""Three RabbitMQ nodes that are one cluster, on 127.0.0.1, to be stopped, killed and frozen one by one."""

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Self

import psutil

from tests.rabbitmq import RabbitMQ
from worker.embedded.processes import free_port

# Seconds until the others take a frozen node for gone: longer than any is frozen here, or it would come back to a
# cluster that has split, which a person must heal.
_PATIENT = "net_ticktime = 120\n"


class Node(RabbitMQ):
    """One of a cluster, whose epmd is not its own: it must outlive a node that is killed."""

    def __init__(self, folder: Path, epmd: int, cookie: str, first: RabbitMQ | None) -> None:
        super().__init__(folder, settings=_PATIENT)
        self._epmd = epmd
        (folder / ".erlang.cookie").write_text(cookie)
        (folder / ".erlang.cookie").chmod(0o400)
        if first is not None:
            with (folder / "rabbitmq.conf").open("a") as settings:
                settings.write(_joining(first.name, self.name))

    def _start_epmd(self) -> None:
        pass


def _joining(*names: str) -> str:
    """The first start of a node that finds the others by itself."""
    nodes = [f"cluster_formation.classic_config.nodes.{number} = {name}" for number, name in enumerate(names, 1)]
    return "\n".join(["cluster_formation.peer_discovery_backend = classic_config", *nodes, ""])


class Cluster:
    """To the outside as one RabbitMQ: `start`, `stop`, `kill`, `ctl`, `vhost`. Its URLs name all nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._epmd_port = folder, free_port(None)
        self._epmd: subprocess.Popen[bytes] | None = None
        cookie, self.nodes = token_hex(16), list[RabbitMQ]()
        for number in range(3):
            first = self.nodes[0] if self.nodes else None
            self.nodes.append(Node(folder / f"node{number}", self._epmd_port, cookie, first))

    @property
    def port(self) -> int:
        return self.nodes[0].port

    def start(self) -> Self:
        try:
            self._epmd = subprocess.Popen(
                ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], stdin=subprocess.DEVNULL
            )
            self.nodes[0].start()
            together([node.start for node in self.nodes[1:]])
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        together([node.stop for node in self.nodes])
        self._end_epmd()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()
        self._end_epmd()

    def _end_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    def processes(self) -> list[psutil.Process]:
        return [process for node in self.nodes for process in node.processes()]

    def ctl(self, *arguments: str) -> str:
        """Asked of the first node that says something."""
        for node in self.nodes[:-1]:
            with suppress(AssertionError, subprocess.TimeoutExpired):
                return node.ctl(*arguments)
        return self.nodes[-1].ctl(*arguments)

    def vhost(self, **options: str) -> str:
        """The URLs of a fresh virtual host at each node, with `;` between them."""
        first = self.nodes[0].vhost(**options)
        name = first.rpartition("/")[2]
        return ";".join([first, *(node.url.removesuffix("/") + name for node in self.nodes[1:])])

    def leader(self, vhost: str, queue: str) -> RabbitMQ:
        """Of a quorum queue."""
        listed = self.ctl("list_queues", "-p", vhost, "--silent", "name", "leader")
        leaders = dict(line.split("\t") for line in listed.splitlines())
        return next(node for node in self.nodes if node.name == leaders[queue])

    def others(self, node: RabbitMQ) -> list[RabbitMQ]:
        return [other for other in self.nodes if other is not node]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def together(calls: Sequence[Callable[[], object]]) -> None:
    """Each in a thread; a start of a node takes ten seconds of waiting."""
    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(call) for call in calls]:
            done.result()
