"""How each peer is started, filled and watched."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.checks import check_peer
from benchmarks.systems import PROCESSES, Publish, Stage, celery_producer

# Jobs at a time in each worker process, where the peer has no default of its own above one: what gave the most here.
PROCRASTINATE_CONCURRENCY = 30
DBOS_CONCURRENCY = 50

ACCOUNTED = "SELECT coalesce(sum(version), 0) FROM conversation_states"
RECORDS_BEHIND = """
    SELECT EXISTS (SELECT FROM conversation_states s LEFT JOIN conversations c ON c.id = s.conversation_id
    WHERE c.version IS DISTINCT FROM s.version)
"""


@dataclass(frozen=True)
class Peer:
    """What all peers have in common: no ledger, so the versions and the commands that Redis has run are counted."""

    backlog: int
    expected: float
    broker: str = "none"
    latency: bool = False
    per_message: int = 1
    queues: Sequence[str] = ()

    def accounted(self, stage: Stage) -> int:
        return int(stage.database.value(ACCOUNTED))

    def settled(self, stage: Stage) -> bool:
        moved = self.accounted(stage)
        written = min(stage.commands("eval"), stage.commands("publish"))
        return written >= moved and not stage.database.value(RECORDS_BEHIND)

    def check(self, stage: Stage, sent: int) -> dict[str, int]:
        return check_peer(stage, sent)


@dataclass(frozen=True)
class PlainCelery(Peer):
    queues: Sequence[str] = ("celery",)

    @property
    def name(self) -> str:
        return f"plain-celery-{self.broker}"

    label = "plain Celery"

    def start(self, stage: Stage) -> None:
        worker = ("worker", "--concurrency", str(PROCESSES), "-E", "--loglevel", "INFO")
        stage.crew.start("celery", "-A", "benchmarks.peers.plain_celery", *worker, ready=" ready.")

    def publisher(self, stage: Stage) -> AbstractContextManager[Publish]:
        return celery_producer(stage.broker_url, "redirect")


@dataclass(frozen=True)
class Dramatiq(Peer):
    broker: str = "redis"
    name = "dramatiq-redis"
    label = "Dramatiq"

    def start(self, stage: Stage) -> None:
        command = ("dramatiq", "benchmarks.peers.dramatiq_app", "--processes", str(PROCESSES))
        stage.crew.start(*command, ready="Worker process is ready for action.", times=PROCESSES)

    @contextmanager
    def publisher(self, stage: Stage) -> Iterator[Publish]:
        from dramatiq import Message
        from dramatiq.brokers.redis import RedisBroker

        broker = RedisBroker(url=stage.broker_url)
        broker.declare_queue("default")
        fixed: dict[str, Any] = {"queue_name": "default", "actor_name": "redirect", "kwargs": {}, "options": {}}
        yield lambda events: broker.enqueue(Message(args=tuple(events), **fixed)) and None
        broker.close()


@dataclass(frozen=True)
class Procrastinate(Peer):
    name = "procrastinate"
    label = "Procrastinate"

    def start(self, stage: Stage) -> None:
        from procrastinate import App, SyncPsycopgConnector

        with App(connector=SyncPsycopgConnector(conninfo=stage.database.url)).open() as app:
            app.schema_manager.apply_schema()
        command = ("procrastinate", "--app", "benchmarks.peers.procrastinate_app.app", "worker")
        for _ in range(PROCESSES):
            stage.crew.start(*command, f"--concurrency={PROCRASTINATE_CONCURRENCY}", ready="Starting worker")

    @contextmanager
    def publisher(self, stage: Stage) -> Iterator[Publish]:
        from procrastinate import App, SyncPsycopgConnector

        with App(connector=SyncPsycopgConnector(conninfo=stage.database.url)).open() as app:
            redirect = app.configure_task("benchmarks.peers.procrastinate_app.redirect")
            yield lambda events: redirect.batch_defer(*({"event": event} for event in events)) and None


@dataclass(frozen=True)
class Dbos(Peer):
    name = "dbos"
    label = "DBOS"

    def start(self, stage: Stage) -> None:
        for number in range(PROCESSES):
            command = ("benchmarks.peers.dbos_app", f"worker-{number}")
            stage.crew.start(*command, ready="worker ready", DBOS_CONCURRENCY=str(DBOS_CONCURRENCY))

    @contextmanager
    def publisher(self, stage: Stage) -> Iterator[Publish]:
        from dbos import DBOSClient

        url = stage.database.url.replace("postgresql:", "postgresql+psycopg:")
        client = DBOSClient(system_database_url=url, application_name="redirects")
        options: Any = {"workflow_name": "redirect", "queue_name": "redirects", "app_version": "1"}
        try:
            yield lambda events: client.enqueue(options, *events) and None
        finally:
            client.destroy()
