"""Passing on: one `redirect_conversation` for up to REDIRECT_BATCH events, confirmed before anything is let go of."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import orjson
import structlog
from celery import Celery
from kombu import Connection

from config.settings import settings
from worker.db import counters
from worker.db.counters import Count
from worker.db.session import engine
from worker.effects import TOLD_ONE_BY_ONE
from worker.errors import Transient

log = structlog.get_logger(__name__)

# Seconds between tries while the broker takes nothing, doubling from the first to the second.
WAITS = (0.1, 5.0)
# Seconds until a publish counts as not confirmed. Then it is made again: a known event_id changes nothing.
CONFIRMED_WITHIN = 5.0
# Bytes of a task message's body. The worker's gate lets 16 MiB pass, and so does RabbitMQ 4 unless told otherwise.
LARGEST = 15 * 1024 * 1024
# Bytes that a character may take there: JSON in JSON escapes a quote, and makes one or two \uXXXX of what is not ASCII.
_ASCII, _OTHER = 2, 12


class Stopped(Exception):
    """The process was told to stop before this was passed on: it stays where it was."""


class Forward:
    """A connection for publishing only: the broker may block it while reading goes on.

    A blocked one is kept until the alarm has ended. A new one for each try would be blocked too, and RabbitMQ, short of
    memory as it is, would keep them all, and take in what each of them was sent.
    """

    def __init__(self, app: Celery, stop: threading.Event) -> None:
        self._app, self._stop = app, stop
        self._connection: Connection | None = None
        self._producer: Any = None
        self._blocked = False

    def send(
        self,
        events: Sequence[str],
        meanwhile: Callable[[], object] = lambda: None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Publish all of `events` (each JSON) and return once the broker has confirmed them; tries until it does.

        `meanwhile` is called between tries; `headers` go with each task message. Raises Stopped.
        """
        for batch in batches(events, settings().batch):
            self._send(batch, meanwhile, headers)

    def _send(self, batch: Sequence[str], meanwhile: Callable[[], object], headers: Mapping[str, str]) -> None:
        wait, longest = WAITS
        while True:
            try:
                self._publish(batch, headers)
            except Exception as error:  # noqa: BLE001 - whatever the broker says, these events are still to be passed on
                if not self._blocked:
                    self.close()
                log.warning("cannot be passed on: tried again", action="intake_postponed", error=str(error), wait=wait)
                counters.tell(engine(), Count("publish_failures", ("redirects",)))
            else:
                _tell(batch)
                return
            if self._stop.wait(wait):
                raise Stopped
            wait = min(wait * 2, longest)
            meanwhile()

    def _publish(self, batch: Sequence[str], headers: Mapping[str, str]) -> None:
        if self._blocked:
            self._listen()
        if self._producer is None:
            told = {"on_blocked": self._on_blocked}
            self._connection = self._app.connection_for_write(transport_options=told)
            self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        # Mandatory: into a queue that was deleted meanwhile RabbitMQ would confirm it, and drop it.
        options: Any = {"mandatory": True, "retry": False, "timeout": CONFIRMED_WITHIN}
        options |= {"confirm_timeout": CONFIRMED_WITHIN, "headers": dict(headers)}
        self._app.send_task("redirect_conversation", batch, queue="redirects", producer=self._producer, **options)

    def _on_blocked(self, reason: str) -> None:
        self._blocked = True
        raise Transient(reason)

    def _listen(self) -> None:
        """Whatever a blocked connection says, also its end, means that it is worth a new one. Raises Transient."""
        try:
            if self._connection is not None:
                self._connection.drain_events(timeout=0.1)
        except TimeoutError:
            raise Transient("the broker blocks all publishers: an alarm") from None
        except Exception as error:  # noqa: BLE001 - it is closed in any case
            log.info("the blocked connection is lost", action="intake_unblocked", error=repr(error))
        self.close()

    def close(self) -> None:
        """Let go of the connection; the next publish makes another."""
        connection, self._connection, self._producer = self._connection, None, None
        self._blocked = False
        if connection is not None:
            with suppress(Exception):
                connection.collect(socket_timeout=1)


def _tell(batch: Sequence[str]) -> None:
    if len(batch) > TOLD_ONE_BY_ONE:
        log.info("events passed on", action="event_passed_on", events=len(batch))
        return
    for event in batch:
        with suppress(ValueError, RecursionError):  # it is the worker that says what is wrong with it
            fields = orjson.loads(event)
            if isinstance(fields, dict):
                named = {name: fields.get(name) for name in ("event_id", "conversation_id")}
                log.info("event passed on", action="event_passed_on", **named)


def batches(events: Sequence[str], most: int) -> list[list[str]]:
    """`events` in order, in runs of at most `most`, and of at most LARGEST bytes as a task message."""
    runs: list[list[str]] = []
    size = 0
    for event in events:
        takes = len(event) * (_ASCII if event.isascii() else _OTHER)
        size += takes
        if not runs or len(runs[-1]) == most or size > LARGEST:
            runs.append([])
            size = takes
        runs[-1].append(event)
    return runs
