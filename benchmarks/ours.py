"""This service: one worker of two processes, beat, and the intake where the JSON queue is used. Default settings."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from kombu import Connection, Producer

from benchmarks.checks import check_ours
from benchmarks.events import Event
from benchmarks.systems import PROCESSES, Publish, Stage, arrived, celery_producer
from worker import json_queue

ACCOUNTED = "SELECT (SELECT count(*) FROM redirects) + (SELECT count(*) FROM rejected_events)"
SETTLED = "SELECT NOT EXISTS (SELECT FROM side_effects)"


@dataclass(frozen=True)
class Ours:
    """`way` is `json` (the queue workflow.redirects) or `task` (redirect_conversation)."""

    way: str
    broker: str
    per_message: int
    backlog: int
    expected: float
    queues: Sequence[str] = (
        json_queue.QUEUE.name,
        json_queue.DEAD_LETTERS.name,
        "redirects",
        "effects.cache",
        "effects.websocket",
        "effects.record",
        "maintenance",
    )

    @property
    def name(self) -> str:
        size = "" if self.per_message == 1 else f"-{self.per_message}"
        return f"ours-{self.way}{size}-{self.broker}"

    @property
    def label(self) -> str:
        way = {"json": "JSON queue", "task": "Celery task"}[self.way]
        return f"this service, {way}, " + ("1 event" if self.per_message == 1 else f"arrays of {self.per_message}")

    @property
    def latency(self) -> bool:
        return self.per_message == 1

    def start(self, stage: Stage) -> None:
        worker = ("worker", "--without-gossip", "--without-mingle", "--concurrency", str(PROCESSES))
        stage.crew.start("celery", "-A", "worker.app", *worker, ready=" ready.", REDIRECT_CONCURRENCY=str(PROCESSES))
        stage.crew.start("celery", "-A", "worker.app", "beat")
        if self.way == "json":
            stage.crew.start("worker.intake", ready="intake ready")

    def publisher(self, stage: Stage) -> AbstractContextManager[Publish]:
        if self.way == "task":
            return celery_producer(stage.broker_url, "redirect_conversation", "redirects")
        return _json_producer(stage.broker_url)

    def accounted(self, stage: Stage) -> int:
        return int(stage.database.value(ACCOUNTED))

    def settled(self, stage: Stage) -> bool:
        return bool(stage.database.value(SETTLED))

    def check(self, stage: Stage, sent: int) -> dict[str, int]:
        return check_ours(stage, sent)


@contextmanager
def _json_producer(broker_url: str) -> Iterator[Publish]:
    with Connection(broker_url) as connection:
        json_queue.declare(connection)
        producer = Producer(connection, exchange=json_queue.EXCHANGE, auto_declare=False)

        def publish(events: Sequence[Event]) -> None:
            body = events[0] if len(events) == 1 else list(events)
            producer.publish(body, routing_key=json_queue.ROUTING_KEY, serializer="json", delivery_mode=2)

        yield publish
        arrived(connection, json_queue.QUEUE.name)
