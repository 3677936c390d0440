"""Everything that runs in one scenario: its servers, its processes, who watches, and what was done to them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, TypeVar

import psutil

from tests.chaos.harness.servers import Embedded, Rabbit, Server
from tests.chaos.harness.watcher import Watcher
from tests.chaos.harness.workload import Producer, Workload
from tests.eventually import eventually
from tests.rabbitmq import RabbitMQ
from tests.rabbitmq_cluster import Cluster
from tests.service import WORKER, Process, Service
from worker.db import migrations
from worker.embedded.processes import free_port

T = TypeVar("T")
# The command of each kind of process, and what it says when it is ready; beat says nothing.
KINDS = {
    "worker": (("celery", "-A", "worker.app", *WORKER), " ready."),
    "beat": (("celery", "-A", "worker.app", "beat"), ""),
    "intake": (("worker.intake",), "reading the JSON queue"),
    "gateway": (("worker.gateway",), "gateway ready"),
    "flower": (("celery", "-A", "worker.app", "flower", "--conf=config/flower.py"), "Visit me at"),
}
# A scenario waits for sweeps and comparisons: these come more often than by default.
QUICK = {"REDIRECT_LOG_FORMAT": "json", "REDIRECT_SWEEP_INTERVAL": "1", "REDIRECT_RECONCILE_INTERVAL": "5"}


@dataclass
class World:
    """`service` is what the processes see, through the proxies; `direct` looks past them. `faults` counts by name."""

    database: Embedded
    broker: Server
    cache: Embedded
    service: Service
    direct: Service
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    processes: list[tuple[str, Process]] = field(default_factory=list)
    watcher: Watcher | None = None

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.workload = Workload(self.seed)
        # Past the proxy: what a producer's own network does is not what is asked here.
        self.producer = Producer(self.direct)

    @property
    def on_redis(self) -> bool:
        return self.direct.broker_url.startswith("redis")

    def start(self, kind: str = "worker", *options: str, through: Sequence[str] = (), **environment: str) -> Process:
        """A process of this kind, once it is ready; `through` is a module that runs it, and that one's arguments."""
        process, ready = self.spawn(kind, *options, through=through, **environment), KINDS[kind][1]
        with suppress(AssertionError):
            eventually(lambda: process.says(ready) or not process.running)
        assert process.says(ready), f"{kind} is not ready: {process.log.read_text(errors='replace')[-3000:]}"
        return process

    def spawn(self, kind: str, *options: str, through: Sequence[str] = (), **environment: str) -> Process:
        """A process of this kind, which may not be ready yet."""
        if kind == "worker":  # RabbitMQ keeps out a second of the same name
            options = (f"--hostname={kind}-{len(self.processes)}@here", *options)
        process = self.service.spawn(*through, *KINDS[kind][0], *options, environment=environment)
        self.processes.append((kind, process))
        return process

    def start_all(self, **environment: str) -> None:
        """One of each, and a watcher."""
        for kind in ("worker", "beat"):
            self.start(kind, **environment)
        self.watch(**environment)

    def watch(self, **environment: str) -> Watcher:
        port = free_port(None)
        self.start("gateway", PORT=str(port), **environment)
        self.watcher = Watcher(port).__enter__()
        return self.watcher

    def running(self, kind: str) -> list[Process]:
        return [process for each, process in self.processes if each == kind and process.running]

    def fault(self, name: str, cause: Callable[[], T]) -> T:
        self.faults[name] += 1
        return cause()

    def children(self) -> list[psutil.Process]:
        """All processes of all process groups that were started here."""
        found = []
        for _, process in self.processes:
            if process.running:
                main = psutil.Process(process.popen.pid)
                found += [main, *main.children(recursive=True)]
        return found

    def close(self) -> None:
        self.producer.close()
        if self.watcher is not None:
            self.watcher.__exit__()
        for _, process in self.processes:
            process.kill()


@contextmanager
def world(
    folder: Path,
    seed: int,
    node: RabbitMQ | Cluster | None = None,
    vhost: Mapping[str, str] = MappingProxyType({}),
    **extra: Any,
) -> Iterator[World]:
    """Servers of one's own, nothing running. The broker is Redis, or a virtual host on `node` with these options."""
    with ExitStack() as stack:
        database = Embedded(folder / "servers", "postgres", stack)
        cache = Embedded(folder / "servers", "cache", stack)
        broker: Server = Rabbit(node, stack, **vhost) if node else Embedded(folder / "servers", "broker", stack)
        migrations.upgrade(database.direct)
        environment = QUICK | extra
        one = World(
            database,
            broker,
            cache,
            Service(database.url, broker.url, cache.url, folder, environment),
            Service(database.direct, broker.direct, cache.direct, folder, environment),
            seed,
        )
        stack.callback(one.close)
        yield one
