"""The consumer class (`worker_consumer`): checks each message's shape first, and parks what Celery would choke on."""

from collections.abc import Callable
from typing import Any

import structlog
from celery.worker.consumer import Consumer

from worker.errors import Transient
from worker.guard.parking import park, queue_of, whole
from worker.guard.shape import problem

log = structlog.get_logger(__name__)

# Seconds between tries to park while the database is away. The message stays unacknowledged: the broker keeps it.
PARK_AGAIN = 5.0


class GuardedConsumer(Consumer):
    """Celery's consumer behind a gate: nothing that arrives may kill or loop the worker, and nothing is dropped."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)
        broken = self.connection_errors + self.channel_errors

        def guarded(message: Any) -> None:
            if (wrong := _inspect(message)) is not None:
                self._park(message, wrong)
                return
            try:
                handle(message)
            except broken:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the next message must still be served
                self._park(message, f"Celery could not take it: {type(error).__name__}: {error}")

        return guarded

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._park(message, f"the body should be JSON: {exc}")

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        self._park(message, "this is no Celery task message")

    def on_unknown_task(self, _body: Any, message: Any, exc: Exception) -> None:
        self._park(message, f"there is no task named {exc}")

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        self._park(message, f"the task message is invalid: {exc}")

    def _park(self, message: Any, error: str) -> None:
        """Keep it, then acknowledge it; while the database is away, try again later and leave it with the broker."""
        try:
            park(whole(message), error, queue_of(message))
        except Transient as away:
            log.warning("parking waits for the database", action="parking_postponed", error=str(away))
            self.timer.call_after(PARK_AGAIN, self._park, (message, error))
            return
        message.ack_log_error(log, self.connection_errors)


def _inspect(message: Any) -> str | None:
    try:
        payload = message.payload
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything; the bytes are at fault, not the worker
        return f"the body should be JSON: {type(error).__name__}: {error}"
    return problem(message.headers, payload)
