"""The consumer class (`worker_consumer`): a gate before Celery's own, where what Celery would choke on is parked."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from celery.worker.loops import asynloop, synloop

from worker.failpoints import reach
from worker.guard.amqp_frames import UNREADABLE
from worker.guard.compression import LARGEST
from worker.guard.grouping import WaitingRoom
from worker.guard.parking import LIST_ITEM, MAINTENANCE, REDIRECT, park, queue_of, whole
from worker.guard.pool import Pool
from worker.guard.shape import admitted, expired, in_short, problem
from worker.guard.signals import Signals

log = structlog.get_logger(__name__)

# Seconds that the events for Flower wait, so that several go in one message, and behind the work.
EVENTS_WITHIN = 0.1
# Seconds, at most, from one try to reach the broker to the next. Celery's own grow to 30, all of which redirects would
# wait after an outage of some minutes.
TRY_AGAIN_WITHIN = 5
# A beat that is newer than this worker, and carries nothing that could be lost.
NEWER_BEAT = "this version does not know what beat asks for"


class GuardedConsumer(Consumer):
    """Celery's consumer behind a gate: nothing that arrives may kill or loop the worker, and nothing is dropped."""

    # Of worker/guard/grouping.py; there is a new one for each connection.
    waiting_room: WaitingRoom | None = None
    _events_due = False

    def start(self) -> None:
        self._signals = Signals()
        self._signals.take_over()
        super().start()

    def loop(self, *args: Any) -> None:
        if self.hub is None:
            synloop(*args)
            return
        with self._signals.waiting_for(self.hub):
            asynloop(*args)

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=TRY_AGAIN_WITHIN)
        return super().ensure_connected(conn)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)
        # On Redis kombu counts a KeyError as a lost connection. In here it is about a message.
        broken = tuple(kind for kind in self.connection_errors + self.channel_errors if kind is not KeyError)

        def guarded(message: Any) -> None:
            reach("after_delivery")
            received = message.headers
            if (wrong := self._wrong(message)) is not None:
                self._pass_over(message) if wrong is NEWER_BEAT else self._park(message, wrong)
                return
            if self._is_expired_redirect(message):
                self._park_expired(message)
                return
            _admit(message)
            try:
                handle(message)
            except broken:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the next message must still be served
                message.headers = received
                self._park(message, f"Celery could not take it: {type(error).__name__}: {error}")

        return guarded

    def on_send_event_buffered(self) -> None:  # type: ignore[override]
        """Flower may learn of it a moment later: Celery would send the events before the task itself goes on."""
        if self.hub and not self._events_due:
            self._events_due = True
            self.hub.call_later(EVENTS_WITHIN, self._send_events)

    def _send_events(self) -> None:
        self._events_due = False
        self._flush_events()

    def shutdown(self) -> None:
        self._flush_events()  # what cannot be sent it keeps to itself
        super().shutdown()

    def cancel_active_requests(self) -> None:
        """Of a cold shutdown: what was written to a process by half is written whole first.

        Celery would write that the process should end in the middle of it, and wait for ever for one that waits for the
        other half.
        """
        if isinstance(self.pool, Pool):
            self.pool.finish_writing()
        super().cancel_active_requests()

    def on_close(self) -> None:
        super().on_close()
        self._events_due = False  # the timer may have gone with the connection
        if self.waiting_room is not None:
            self.waiting_room.close()

    def stop(self) -> None:
        """It is told to go, and reads no more; the processes finish what they have. The rest is for somebody else."""
        super().stop()
        if self.waiting_room is not None and self.connection is not None:
            self.waiting_room.give_back(self.connection_errors)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._park(message, f"the body should be JSON: {exc}")

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        self._park(message, "this is no Celery task message")

    def on_unknown_task(self, _body: Any, message: Any, exc: Exception) -> None:
        self._park(message, f"there is no task named {exc}")

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        self._park(message, f"the task message is invalid: {exc}")

    def _wrong(self, message: Any) -> str | None:
        if message.content_type in (LIST_ITEM, UNREADABLE):
            return str(message.headers.get("problem"))
        if len(message.body or b"") > LARGEST:
            return f"the body should be at most {LARGEST} bytes: send the events in several messages"
        try:
            payload = message.payload
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything; the bytes are at fault, not the worker
            return f"the body should be JSON: {type(error).__name__}: {error}"
        return problem(message.headers, payload) or self._misfit(queue_of(message), *_call(message))

    def _misfit(self, queue: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> str | None:
        """What keeps this call from its task. Celery's own tasks run others, and would run them past this gate."""
        task = self.app.tasks.get(name)
        if task is None and queue == MAINTENANCE and not (args or kwargs):
            return NEWER_BEAT
        if task is None or name.startswith("celery."):
            return f"there is no task named {name!r}"
        try:
            task.__header__(*args, **kwargs)
        except TypeError as error:
            return f"the arguments should fit the task: {error}"
        return None

    def _is_expired_redirect(self, message: Any) -> bool:
        return bool(_fields(message)["task"] == REDIRECT) and expired(_fields(message))

    def _park_expired(self, message: Any) -> None:
        """Celery would drop it in silence. Its events are kept each by itself, as those with an `expires_at` are."""
        _, args, kwargs = _call(message)
        events = [*args, *([kwargs] if kwargs else [])]
        error = f"the message expired at {_fields(message)['expires']}: send it again if it still holds"
        park(events, error, queue_of(message), code="expired", then=lambda: self._let_go(message))

    def _pass_over(self, message: Any) -> None:
        log.warning(NEWER_BEAT, action="wish_passed_over", task=_fields(message)["task"])
        self._let_go(message)

    def _park(self, message: Any, error: str) -> None:
        park([whole(message)], error, queue_of(message), then=lambda: self._let_go(message))

    def _let_go(self, message: Any) -> None:
        message.ack_log_error(log, self.connection_errors)


def _fields(message: Any) -> Mapping[str, Any]:
    """Where the task's name and options are: in the headers (protocol 2) or in the body (protocol 1)."""
    fields: Mapping[str, Any] = message.headers if "task" in message.headers else message.payload
    return fields


def _call(message: Any) -> tuple[str, list[Any], dict[str, Any]]:
    fields = _fields(message)
    args, kwargs = (
        (fields.get("args", []), fields.get("kwargs", {})) if fields is not message.headers else message.payload[:2]
    )
    return fields["task"], args, kwargs


def _admit(message: Any) -> None:
    """Leave Celery nothing to read that was not looked at. Only here: the broker keeps the message as it came."""
    name, args, kwargs = _call(message)
    # What Flower shows is what the producer wrote there: of an event also the reason, in the words of a customer.
    shown = (
        {"argsrepr": in_short([*args, *([kwargs] if kwargs else [])]), "kwargsrepr": "{}"} if name == REDIRECT else {}
    )
    if "task" in message.headers:
        message.headers = admitted(message.headers) | shown
    else:
        message.headers = {}
        seen = admitted(message.payload) | {"args": args, "kwargs": kwargs} | shown
        message.payload.clear()
        message.payload.update(seen)
    message.properties = {name: value for name, value in message.properties.items() if isinstance(value, str | int)}
