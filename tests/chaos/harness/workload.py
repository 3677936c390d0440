"""What producers send: drawn from a seed, sent until it is confirmed or known to be unknown, and remembered."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from celery import Celery

from config.settings import DESTINATIONS
from tests.service import Service

Event = dict[str, Any]
# Seconds that one publish may take.
PUBLISH = 2.0


@dataclass
class Sent:
    """What became of the events at the producer. `acknowledged` are ids, as are `unknown`: their publish has raised."""

    events: dict[str, Event] = field(default_factory=dict)
    acknowledged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.events)


@dataclass
class Workload:
    """Events of a seed: `conversations` many, all destinations, times that jump back and forth by a minute (`jumps`).

    `tick` is from one event to the next before that; all are past, if there are not too many. Each conversation has an
    owner, so that a WebSocket can watch all of one owner.
    """

    seed: int
    conversations: int = 20
    owners: int = 3
    prefix: str = "e"
    tick: timedelta = timedelta(milliseconds=10)
    jumps: float = 60

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._now = datetime.now(UTC) - timedelta(minutes=5)
        self._number = 0

    def event(self, **fields: Any) -> Event:
        number, draw = self._number, self._random
        self._number += 1
        conversation = draw.randrange(self.conversations)
        at = self._now + number * self.tick + timedelta(seconds=draw.uniform(-self.jumps, self.jumps))
        return {
            "event_id": f"{self.prefix}{number}-{self.seed}",
            "conversation_id": f"c{conversation}",
            "destination": draw.choice(sorted(DESTINATIONS)),
            "owner_id": str(conversation % self.owners),
            "occurred_at": at.isoformat(),
            "source": "chaos",
        } | fields

    def events(self, number: int, **fields: Any) -> list[Event]:
        return [self.event(**fields) for _ in range(number)]


class Producer:
    """An outside producer that shares no code with the service; remembers what was acknowledged."""

    def __init__(self, service: Service, sent: Sent | None = None) -> None:
        self.sent = Sent() if sent is None else sent
        self._celery = Celery("outside", broker=service.broker_url)
        # As careful as one should be: a confirm of RabbitMQ's is waited for; nothing waits for ever. (A queue is
        # declared before its first message, which a cluster does not answer while one of its nodes is frozen.)
        rabbitmq = service.broker_url.startswith("amqp")
        self._celery.conf.broker_transport_options = (
            {"confirm_publish": True, "read_timeout": PUBLISH, "write_timeout": PUBLISH}
            if rabbitmq
            else {"socket_timeout": PUBLISH, "socket_connect_timeout": PUBLISH}
        )
        self._celery.conf.broker_connection_timeout = PUBLISH
        self._options: dict[str, Any] = {"timeout": PUBLISH, "confirm_timeout": PUBLISH} if rabbitmq else {}
        self._connection: Any = self._celery.connection_for_write()
        # py-amqp's connections are for one thread at a time; a scenario sends beside the thread of `sending`.
        self._one_at_a_time = threading.Lock()

    def send(self, events: Sequence[Event]) -> bool:
        """One task with these events; whether the broker has confirmed it."""
        for event in events:
            self.sent.events.setdefault(str(event["event_id"]), event)
        ids = [str(event["event_id"]) for event in events]
        with self._one_at_a_time:
            try:
                self.put(events)
            except Exception:  # noqa: BLE001 - whatever it is, the result of this publish is not known
                self.sent.unknown += ids
                # py-amqp would take a late confirm for that of the next message; and another node may answer.
                self._connection.collect(socket_timeout=1)
                self._connection.maybe_switch_next()
                return False
            self.sent.acknowledged += ids
            return True

    def put(self, events: Sequence[Event]) -> None:
        """One task; it is acknowledged when this returns, and unknown when it raises."""
        producer = self._celery.amqp.Producer(self._connection, auto_declare=False)
        options = self._options | {"queue": "redirects", "retry": False, "producer": producer}
        self._celery.send_task("redirect_conversation", args=list(events), **options)

    def send_all(self, events: Sequence[Event], batch: int = 1) -> None:
        for start in range(0, len(events), batch):
            self.send(events[start : start + batch])

    def close(self) -> None:
        self._connection.collect(socket_timeout=1)
        self._celery.close()


@contextmanager
def sending(producer: Producer, workload: Workload, every: float = 0.02, batch: int = 1) -> Iterator[Sent]:
    """One message each `every` seconds from a thread until the block ends. What raises is sent again, as it was."""
    done = threading.Event()

    def send() -> None:
        while not done.wait(every):
            events = workload.events(batch)
            while not producer.send(events) and not done.wait(0.2):
                pass

    thread = threading.Thread(target=send, name="producer")
    thread.start()
    try:
        yield producer.sent
    finally:
        done.set()
        thread.join(30)
        assert not thread.is_alive(), "a publish has no end"


def last_decisions(events: Sequence[Event]) -> dict[str, Event]:
    """Of each conversation the event that decides: the last by (occurred_at, event_id)."""
    decides: dict[str, Event] = {}
    for event in events:
        held = decides.get(event["conversation_id"])
        if held is None or _mark(event) > _mark(held):
            decides[event["conversation_id"]] = event
    return decides


def _mark(event: Event) -> tuple[datetime, str]:
    return datetime.fromisoformat(event["occurred_at"]), event["event_id"]
