"""The request class of redirect_conversation: a message that kills its process ends in rejected_events."""

from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request
from celery.worker.state import task_ready

from worker.errors import Transient
from worker.guard.parking import park


class KeptRequest(Request):
    """Celery's request, which parks its events before a last worker loss would acknowledge them away."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        if self._is_last_loss(exc_info.exception):
            try:
                self._park_events()
            except Transient:
                task_ready(self)
                return self.reject(requeue=True)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _is_last_loss(self, error: BaseException) -> bool:
        return isinstance(error, WorkerLostError) and self._context.retries >= self.task.max_retries

    def _park_events(self) -> None:
        for event in [*self.args, *([self.kwargs] if self.kwargs else [])]:
            park(
                event, "applying it killed the process, each time it was tried", "redirect_conversation", "worker_lost"
            )
