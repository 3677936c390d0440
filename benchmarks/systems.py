"""A system under test, and the stage on which it runs."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from celery import Celery
from kombu import Connection
from redis import Redis

from benchmarks.events import Event
from benchmarks.processes import Crew
from benchmarks.services import Database, Services

# Worker processes of every system: as many as the machine that the goals were measured on has cores.
PROCESSES = 2

Publish = Callable[[Sequence[Event]], None]


@dataclass
class Stage:
    """Empty stores and the processes of one run."""

    services: Services
    database: Database
    cache: Redis
    crew: Crew
    broker: str

    @property
    def broker_url(self) -> str:
        return self.services.urls[self.broker]

    def commands(self, *names: str) -> int:
        """How often the cache's Valkey has run these commands since the run began."""
        stats: Any = self.cache.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in names)


class System(Protocol):
    """What one run starts, fills, watches and checks."""

    @property
    def name(self) -> str:
        """For --only and for performance.json."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def broker(self) -> str:
        """`redis`, `rabbitmq`, or `none`: its queue is in PostgreSQL, or it has none."""

    @property
    def backlog(self) -> int:
        """Events of a throughput run."""

    @property
    def per_message(self) -> int:
        """Events in one message."""

    @property
    def latency(self) -> bool:
        """Whether publish -> frame is measured too."""

    @property
    def expected(self) -> float:
        """Redirects per second, for the first estimate of the duration only."""

    @property
    def queues(self) -> Sequence[str]:
        """What RabbitMQ is to forget before a run."""

    def start(self, stage: Stage) -> None:
        """Start the processes; returns when they are ready."""

    def publisher(self, stage: Stage) -> AbstractContextManager[Publish]:
        """Publishes the events of one message; when the block ends, the broker has everything."""

    def accounted(self, stage: Stage) -> int:
        """Events that the database accounts for."""

    def settled(self, stage: Stage) -> bool:
        """Whether the last copy of everything accounted for is written."""

    def check(self, stage: Stage, sent: int) -> dict[str, int]:
        """Raise CheckFailed unless all events are accounted for and all copies right; returns the outcomes."""


def send(system: System, stage: Stage, events: Sequence[Event]) -> None:
    """Publish `events` in messages of the system's size."""
    with system.publisher(stage) as publish:
        for start in range(0, len(events), system.per_message):
            publish(events[start : start + system.per_message])


@contextmanager
def on_stage(services: Services, system: System) -> Iterator[Stage]:
    """The system's processes, ready, on empty stores; all of it gone when the block ends."""
    database = services.fresh(system.queues)
    broker = "redis" if system.broker == "none" else system.broker
    folder = _folder(services.folder / "logs")
    with Redis.from_url(services.urls["cache"]) as cache:
        stage = Stage(services, database, cache, Crew(folder, services.environment(database, broker)), broker)
        try:
            system.start(stage)
            yield stage
        finally:
            stage.crew.end()
            services.drop(database)


def _folder(parent: Path) -> Path:
    parent.mkdir(exist_ok=True)
    folder = next(parent / str(n) for n in itertools.count() if not (parent / str(n)).exists())
    folder.mkdir()
    return folder


@contextmanager
def celery_producer(broker_url: str, task: str, queue: str | None = None) -> Iterator[Publish]:
    """What a Celery application with a default configuration does, on one connection that stays open."""
    app = Celery("producer", broker=broker_url)
    options: dict[str, Any] = {"queue": queue} if queue else {}
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)

        def publish(events: Sequence[Event]) -> None:
            app.send_task(task, args=list(events), producer=producer, **options)

        yield publish
        arrived(connection, queue or "celery")
    app.close()


def arrived(connection: Connection, queue: str) -> None:
    """Returns when the broker has handled all that was published on the connection: RabbitMQ answers in order, and on
    Redis each publish has waited for its answer.
    """
    if connection.transport.driver_type == "amqp":
        channel: Any = connection.default_channel
        channel.queue_declare(queue, passive=True)
