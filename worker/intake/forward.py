"""Passing on: one `redirect_conversation` for up to REDIRECT_BATCH events, confirmed before anything is let go of."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from celery import Celery
from kombu import Connection

from config.settings import settings

log = structlog.get_logger(__name__)

# Seconds between tries while the broker takes nothing, doubling from the first to the second.
WAITS = (0.1, 5.0)
# Seconds until a publish counts as not confirmed. Then it is made again: a known event_id changes nothing.
CONFIRMED_WITHIN = 5.0
# Characters of a task message's body: half of what the worker's gate lets pass, because JSON in JSON needs escapes.
LARGEST = 8 * 1024 * 1024


class Stopped(Exception):
    """The process was told to stop before this was passed on: it stays where it was."""


class Forward:
    """A connection for publishing only: the broker may block it while reading goes on."""

    def __init__(self, app: Celery, stop: threading.Event) -> None:
        self._app, self._stop = app, stop
        self._connection: Connection | None = None
        self._producer: Any = None

    def send(self, events: Sequence[str], meanwhile: Callable[[], object] = lambda: None) -> None:
        """Publish all of `events` (each JSON) and return once the broker has confirmed them; tries until it does.

        `meanwhile` is called between tries. Raises Stopped.
        """
        for batch in batches(events, settings().batch):
            self._send(batch, meanwhile)

    def _send(self, batch: Sequence[str], meanwhile: Callable[[], object]) -> None:
        wait, longest = WAITS
        while True:
            try:
                self._publish(batch)
            except Exception as error:  # noqa: BLE001 - whatever the broker says, these events are still to be passed on
                self.close()
                log.warning("cannot be passed on: tried again", action="intake_postponed", error=str(error), wait=wait)
            else:
                return
            if self._stop.wait(wait):
                raise Stopped
            wait = min(wait * 2, longest)
            meanwhile()

    def _publish(self, batch: Sequence[str]) -> None:
        if self._producer is None:
            self._connection = self._app.connection_for_write()
            self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        bounded: Any = {"timeout": CONFIRMED_WITHIN, "confirm_timeout": CONFIRMED_WITHIN, "retry": False}
        self._app.send_task("redirect_conversation", batch, queue="redirects", producer=self._producer, **bounded)

    def close(self) -> None:
        """Let go of the connection; the next publish makes another."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.collect(socket_timeout=1)


def batches(events: Sequence[str], most: int) -> list[list[str]]:
    """`events` in order, in runs of at most `most` and at most LARGEST characters."""
    runs: list[list[str]] = []
    size = 0
    for event in events:
        size += len(event)
        if not runs or len(runs[-1]) == most or size > LARGEST:
            runs.append([])
            size = len(event)
        runs[-1].append(event)
    return runs
