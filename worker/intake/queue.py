"""The JSON queue: whatever has arrived is passed on as one task, then acknowledged."""

import random
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field

import structlog

from config import tracing
from config.settings import settings
from worker.app import app
from worker.db import rejected
from worker.db.session import engine
from worker.errors import Permanent, Rejected, Transient
from worker.failpoints import reach
from worker.guard.amqp_frames import UNREADABLE
from worker.intake.amqp import Amqp
from worker.intake.delivery import Delivery, Source
from worker.intake.forward import WAITS, Forward, Stopped
from worker.intake.redis_list import RedisList
from worker.messages import Unpacked, unpack

log = structlog.get_logger(__name__)

SOURCE = "workflow.redirects"
# Seconds between tries to keep what was refused, while the database is away. Until then it stays on the queue.
KEEP_AGAIN = 5.0
# What may wait for that, in messages and in bytes: then nothing more is read, or they would fill the memory.
MOST_REFUSED, LARGEST_REFUSED = 1000, 64 * 1024 * 1024


@dataclass
class _Refused:
    """Deliveries whose bad part is not in `rejected_events` yet. They are let go of once it is."""

    deliveries: list[Delivery] = field(default_factory=list)
    bodies: list[tuple[object, Rejected]] = field(default_factory=list)
    size: int = 0
    due: float = 0.0

    @property
    def full(self) -> bool:
        return len(self.deliveries) >= MOST_REFUSED or self.size >= LARGEST_REFUSED


def source(url: str) -> Source:
    return RedisList(url) if url.startswith("redis") else Amqp(url)


def run(stop: threading.Event) -> None:
    """Until told to stop; a source that is lost is connected to again."""
    forward = Forward(app, stop)
    messages = source(settings().url("broker_url"))
    wait, longest = WAITS
    while not stop.is_set():
        started = time.monotonic()
        try:
            with closing(messages):
                messages.open()
                log.info("reading the JSON queue", action="intake_reading")
                _pass_on(messages, forward, stop)
        except Stopped:
            break
        except Exception as error:  # noqa: BLE001 - whatever it was, the queue must not go unread for ever
            log.warning("the JSON queue is lost: connecting again", action="intake_lost", error=repr(error))
        wait = WAITS[0] if time.monotonic() - started > longest else min(wait * 2, longest)
        stop.wait(wait * random.uniform(0.5, 1))  # noqa: S311 - chance, not a secret
    forward.close()


def _pass_on(source: Source, forward: Forward, stop: threading.Event) -> None:
    refused = _Refused()
    while not stop.is_set():
        deliveries = [] if refused.full else source.receive(settings().batch)
        events, good = _sorted(deliveries, refused)
        if events:
            forward.send(events, meanwhile=source.beat, headers=_traced(deliveries))
            reach("intake_after_publish_before_ack")
        if good:
            source.done(good)
        if refused.deliveries and refused.due <= time.monotonic():
            _keep(source, refused)
        if refused.full:
            source.beat()
            stop.wait(1.0)


def _traced(deliveries: Iterable[Delivery]) -> dict[str, str]:
    """The trace of the first message that is part of one: what goes on together is in one trace."""
    found = (delivery.headers.get(tracing.TRACEPARENT) for delivery in deliveries)
    return next(({tracing.TRACEPARENT: value} for value in found if isinstance(value, str)), {})


def _sorted(deliveries: Iterable[Delivery], refused: _Refused) -> tuple[list[str], list[Delivery]]:
    """The events of all, and the deliveries that held nothing else; the others are noted in `refused`."""
    events: list[str] = []
    good: list[Delivery] = []
    for delivery in deliveries:
        unpacked = _unpacked(delivery)
        events += unpacked.events
        if not unpacked.refused:
            good.append(delivery)
            continue
        refused.deliveries.append(delivery)
        refused.size += len(delivery.body)
        refused.bodies += unpacked.refused
    return events, good


def _unpacked(delivery: Delivery) -> Unpacked:
    if delivery.content_type == UNREADABLE:
        kept = {"headers": delivery.headers, "body": rejected.storable(delivery.body)}
        return Unpacked(refused=[(kept, Rejected("malformed", str(delivery.headers.get("problem"))))])
    try:
        return unpack(delivery.body, delivery.content_type, delivery.headers)
    except Exception as error:
        # A bug of ours, or no memory for it: else it would come again and again, and its neighbours with it.
        log.exception("a message that cannot be unpacked", action="unpack_failed")
        return Unpacked(refused=[(delivery.body, Rejected("malformed", f"cannot be read: {error!r}"))])


def _keep(source: Source, refused: _Refused) -> None:
    rows = [rejected.row(body, why.code, why.error, SOURCE) for body, why in refused.bodies]
    try:
        rejected.keep_all(engine(), rows)
    except (Transient, Permanent) as error:
        refused.due = time.monotonic() + KEEP_AGAIN
        log.warning(
            "refused messages stay on the queue", action="parking_postponed", error=str(error), waiting=len(rows)
        )
        return
    for row in rows:
        log.warning("message parked in rejected_events", action="message_parked", code=row["code"], error=row["error"])
    source.done(refused.deliveries)
    refused.deliveries, refused.bodies, refused.size = [], [], 0
