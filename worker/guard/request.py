"""The request class of redirect_conversation: no event is let go of before it is applied or in rejected_events."""

from collections.abc import Sequence
from typing import Any

import structlog
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready
from kombu.utils.encoding import safe_repr

from worker.guard.parking import REDIRECT, REDIRECTS, park

log = structlog.get_logger(__name__)

# The task, or an operator, has said what becomes of the message.
_ANSWERED = (Reject, Ignore, Retry, Terminated)
# The process, its time or its memory is gone: maybe it was the event, maybe the machine. So it is tried 1 + max_retries
# times.
_LOST = (WorkerLostError, TimeLimitExceeded, SoftTimeLimitExceeded, MemoryError, SystemExit, KeyboardInterrupt)


class KeptRequest(Request):
    """Celery's request, which acknowledges nothing away.

    A call that fails is sent again in halves, until the one event that is at fault stands alone and is parked.
    """

    _slow = False

    @property
    def events(self) -> list[Any]:
        return [*self.args, *([self.kwargs] if self.kwargs else [])]

    @property
    def expires(self) -> None:  # type: ignore[override]
        """Never: the gate has judged it. Celery would drop the message in silence."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        self._slow = True
        if soft:  # a hard limit has gone through on_failure already
            super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error = exc_info.exception.exc if isinstance(exc_info.exception, ExceptionWithTraceback) else exc_info.exception
        answer = super().on_failure
        if isinstance(error, _ANSWERED) or self._already_cancelled or self._already_revoked:
            return answer(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        task_ready(self)
        if len(self.events) > 1:
            return self._send_again(self._halves(), error, retries=0)
        if isinstance(error, _LOST) and self._context.retries < self.task.max_retries:
            return self._send_again([self.events], error, retries=self._context.retries + 1)
        if isinstance(error, MemoryError):  # Celery would raise it again, in the main process
            return self._park(_reason(error), self.acknowledge)
        return self._park(_reason(error), lambda: answer(exc_info, send_failed_event, return_ok))

    def reject(self, requeue: bool = False) -> None:
        """Back to the queue; what took too long in one go, in halves."""
        if requeue and self._slow and len(self.events) > 1 and not self.acknowledged:
            self._send_again(self._halves(), TimeLimitExceeded("too much for one call"), retries=0)
            return
        super().reject(requeue=requeue)

    def _announce_revoked(self, reason: str, terminated: bool, signum: object, expired: bool) -> None:
        self._already_revoked = True
        announce = super()._announce_revoked
        error = f"the task was {reason} before its event was applied: send it again if it still holds"
        self._park(("revoked", error), lambda: announce(reason, terminated, signum, expired))

    def _park(self, reason: tuple[str, str], then: Any) -> None:
        code, error = reason
        park(self.events, error, REDIRECT, code=code, then=then)

    def _halves(self) -> list[list[Any]]:
        middle = len(self.events) // 2
        return [self.events[:middle], self.events[middle:]]

    def _send_again(self, calls: Sequence[Sequence[Any]], error: BaseException, retries: int) -> None:
        try:
            for events in calls:
                options = {"retries": retries, "root_id": self.root_id, "retry": False}
                self._app.send_task(REDIRECT, events, queue=REDIRECTS, **options)
        except Exception as unsent:  # noqa: BLE001 - whatever the broker says, it still has the message
            log.warning("cannot be sent again: put back", action="redirect_put_back", error=str(unsent))
            super().reject(requeue=True)
            return
        log.warning(
            "redirect failed: sent again", action="redirect_sent_again", error=safe_repr(error), events=len(self.events)
        )
        self.acknowledge()
        self.send_event("task-retried", exception=safe_repr(error), traceback="")


def _reason(error: BaseException) -> tuple[str, str]:
    if isinstance(error, _LOST):
        return "worker_lost", "applying it killed its process or overran its time or memory, each time it was tried"
    return "failed", f"applying it failed: {type(error).__name__}: {error}"
