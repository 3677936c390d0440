"""The strategy of redirect_conversation: messages that wait for a process anyway are run together, in one transaction.

Celery's default strategy does all it does for each message by itself: received, revoked, expired, eta. Then, instead
of queueing for a process, the request joins those that wait, and one ticket queues for all of them. When its turn comes
whatever has arrived by then is one run. So a message alone is never kept waiting, and under load a run is hundreds.
https://docs.celeryq.dev/en/stable/internals/reference/celery.worker.strategy.html
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import structlog
from billiard.einfo import ExceptionWithTraceback
from celery import current_app
from celery.app.trace import trace_task
from celery.exceptions import Reject, TaskRevokedError
from celery.worker import strategy
from celery.worker.state import task_ready

from config import tracing
from config.settings import settings

log = structlog.get_logger(__name__)

# Batches of events in one run. A transaction, its commit and the rings that follow cost as much for one as for five.
BATCHES = 5
# Bytes of the bodies of one run: what the gate lets a single message have.
LARGEST = 16 * 1024 * 1024
# Characters of an outcome in Flower, as of any result.
LONGEST_RESULT = 1024


def grouped(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """`Task.Strategy`: Celery's default, with a waiting room where it hands a request to the pool."""
    consumer.waiting_room = room = WaitingRoom(consumer.on_task_request)
    return strategy.default(task, app, _Doorway(consumer, room), **options)  # type: ignore[no-any-return]


class _Doorway:
    """The consumer, as the default strategy sees it: what is ready to run goes to the waiting room."""

    def __init__(self, consumer: Any, room: "WaitingRoom") -> None:
        self._consumer = consumer
        self.on_task_request = room.enter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


class WaitingRoom:
    """The requests that wait for a process, and at most one ticket in the queue for the pool."""

    def __init__(self, queue_for_pool: Callable[[Any], object]) -> None:
        self._queue_for_pool = queue_for_pool
        self._waiting: deque[Any] = deque()
        self._queued = False
        self.open = True

    def enter(self, request: Any) -> None:
        """Join those that wait. What was lost with its process before runs alone: it may be what killed it."""
        if request.request_dict.get("retries"):
            self.alone(request)
            return
        self._waiting.append(request)
        self.call_for_pool()

    def call_for_pool(self) -> None:
        if self._waiting and self.open and not self._queued:
            self._queued = True
            self._queue_for_pool(Run(self))

    def leave(self) -> list[Any]:
        """Those that run together now: up to BATCHES * REDIRECT_BATCH events, the revoked ones left out."""
        self._queued = False
        together: list[Any] = []
        events = size = 0
        while self._waiting and self.open:
            first = self._waiting[0]
            events += len(first.events)
            size += len(first.message.body or b"")
            if together and (events > BATCHES * settings().batch or size > LARGEST):
                break
            self._waiting.popleft()
            if not first.revoked():
                together.append(first)
        return together

    def alone(self, request: Any) -> None:
        """Queue for a process of its own."""
        self._queue_for_pool(request)

    def close(self) -> None:
        """The connection is lost, or the worker is told to go: no more is run of what waits here.

        Without the connection it is delivered again: by RabbitMQ itself; what a Redis broker had handed out is put back
        by the next connection (guard/delivery.py).
        """
        self.open = False

    def give_back(self, connection_errors: tuple[type[Exception], ...]) -> None:
        """To its queue, over the connection that is still there: else it would wait until the worker has ended."""
        while self._waiting:
            self._waiting.popleft().message.reject_log_error(log, connection_errors, requeue=True)


class Run:
    """A ticket; in the pool, the requests that run together. Celery treats it like a request."""

    def __init__(self, room: WaitingRoom) -> None:
        self._room = room
        self._members: list[Any] = []
        self._slow = False

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:
        """Called when a process is free. Raises TaskRevokedError, which gives it back, when nobody is left."""
        self._members = self._room.leave()
        self._room.call_for_pool()
        if not self._members:
            raise TaskRevokedError("nobody waits")
        if len(self._members) == 1:
            return self._members[0].execute_using_pool(pool)
        first = self._members[0]
        return pool.apply_async(
            run_together,
            args=(first.name, first.id, _context(first), [member.events for member in self._members]),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=first.task.soft_time_limit,
            timeout=first.task.time_limit,
            correlation_id=first.id,
        )

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        for member in self._members:
            member.on_accepted(pid, time_accepted)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        self._slow = True
        log.warning("together they took too long", action="group_timeout", soft=soft, limit=timeout)

    def on_success(self, answer: tuple[int, Any, float | None], **_: Any) -> None:
        failed, results, runtime = answer
        if failed:
            self.on_failure(results)
            return
        with self._members[0].message.channel.together():
            for member, result in zip(self._members, results, strict=True):
                if not member._already_revoked:
                    member.on_success((0, result, runtime))

    def on_failure(self, exc_info: Any, **_: Any) -> None:
        """One of them may be poison: each runs by itself, where it fails and is kept by itself.

        What the task gave back (the database is away) goes back to its queue.
        """
        raised = exc_info.exception
        error = raised.exc if isinstance(raised, ExceptionWithTraceback) else raised
        given_back = isinstance(error, Reject) and error.requeue and not self._slow
        log.warning("a group failed", action="group_failed", error=repr(error), messages=len(self._members))
        for member in self._left():
            if given_back:
                task_ready(member)
                member.reject(requeue=True)
            elif self._room.open:
                self._room.alone(member)

    def _left(self) -> Iterator[Any]:
        return (member for member in self._members if not member._already_revoked)


def _context(request: Any) -> dict[str, Any]:
    """What the task sees as its request: the first one's, so that what it rings has a parent that Flower knows."""
    names = ("id", "task", "root_id", "parent_id", "hostname", "delivery_info", "headers")
    traced = ("sentry-trace", "baggage", tracing.TRACEPARENT)
    return {name: request.request_dict.get(name) for name in (*names, *traced)} | {"is_eager": False, "retries": 0}


def run_together(
    name: str, task_id: str, request: dict[str, Any], calls: Sequence[Sequence[Any]]
) -> tuple[int, Any, float | None]:
    """In the child: one run of the task with the events of all `calls`.

    Returns (failed, the results of each call as text or the error, seconds), as Celery's own trace does.
    """
    task = current_app.tasks[name]
    events = tuple(event for call in calls for event in call)
    result, failed, runtime, _ = trace_task(task, task_id, events, {}, request | {"args": events, "kwargs": {}})
    if failed:
        return 1, result, runtime
    outcomes = iter(result)
    return 0, [_told(list(islice(outcomes, len(call)))) for call in calls], runtime


def _told(outcomes: list[Any]) -> str:
    """As much as is shown: a few outcomes, and not the text of hundreds to be cut off."""
    return repr(outcomes[:10])[:LONGEST_RESULT]
