"""The pool (`worker_pool`): Celery's prefork, which forgets no call that a process has been given, and ends.

A process that replaces another is forked off a worker in operation, and keeps no descriptor of it.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import isgenerator
from typing import Any

from billiard import current_process
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.util import register_after_fork
from celery._state import get_current_task
from celery.concurrency import asynpool
from celery.concurrency.asynpool import AsynPool, _get_job_writer, _select
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import get_event_loop

# Seconds in which a process reads what is written to it.
READ_WITHIN = 2
# Seconds until a process whose answer is there to be read is asked for again.
AGAIN = 1
# Seconds in which one process has something to say, before the next is listened to.
LISTEN_FOR = 0.5
# Seconds, beside the time limit of a task, in which all processes end.
GRACE = 5


class _Process(asynpool.Worker):
    def after_fork(self) -> None:
        super().after_fork()
        signal.signal(signal.SIGUSR1, _soft_time_limit)


def _soft_time_limit(*_: object) -> None:
    """It is for a task. Celery's interrupts whatever it meets: an answer that is written by half ended the worker."""
    if get_current_task() is not None:
        raise SoftTimeLimitExceeded


class _Answers(asynpool.ResultHandler):
    def _flush_outqueue(
        self, fd: int, remove: Callable[[int], object], processes: Mapping[int, Any], heard: Callable[[Any], object]
    ) -> None:
        """At the end: read an answer that is there.

        Celery's waits for the whole of it, for ever if its process was ended in the middle: whoever writes more than a
        pipe holds is in the middle of it until somebody reads.
        """
        process = processes.get(fd)
        if process is None or self._hub is None:
            super()._flush_outqueue(fd, remove, processes, heard)
            return
        reader, _ = self._hub.readers.get(fd, (None, ()))
        if not isgenerator(reader):
            if not _select({fd}, timeout=LISTEN_FOR)[0]:
                return
            self._hub.add_reader(fd, self._recv_message(self._hub.add_reader, fd, heard))
        if self._finish_partial_read(fd, process):
            remove(fd)


class _Processes(AsynPool):
    Worker = _Process
    ResultHandler = _Answers

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        register_after_fork(self, _Processes._let_go)  # first: the first processes are forked in here
        self._hub = get_event_loop()
        super().__init__(*args, **kwargs)

    def register_with_event_loop(self, hub: Any) -> None:
        self._hub = hub  # after a lost connection kombu does not know it any more
        super().register_with_event_loop(hub)

    def _let_go(self) -> None:
        """In a new process: of the event loop, whose list of descriptors is the parent's, and of all other processes.

        (Channels and connections of the broker let go of themselves.)
        """
        _let_go_of_loop(self._hub)
        for queues, owner in self._queues.items():
            if owner is not current_process():
                for queue in filter(None, queues):
                    queue.close()
        for process in self._pool:
            if process is not current_process():
                _let_go_of_end(process)

    def _create_timelimit_handlers(self, hub: Any) -> None:
        super()._create_timelimit_handlers(hub)
        self._later = hub.call_later

    def _on_soft_timeout(self, job: int, *limits: Any) -> None:
        if self._has_answered(job):
            self._later(AGAIN, self._on_soft_timeout, job, *limits)
        else:
            super()._on_soft_timeout(job, *limits)

    def _on_hard_timeout(self, job: int) -> None:
        if self._has_answered(job):
            self._later(AGAIN, self._on_hard_timeout, job)
        else:
            super()._on_hard_timeout(job)

    def _has_answered(self, job: int) -> bool:
        """Nobody reads while the worker looks for its broker; then the limits of what is done long since come first."""
        call = self._cache.get(job)
        return bool(call is not None and call._write_to and _select({call._write_to.outqR_fd})[0])

    def flush(self) -> None:
        """The connection is lost, or this is the end: forget the calls that no process has, they come again.

        Celery forgets also those that a process has been given and has not begun. It runs them nevertheless: with no
        time limit, and when it should end it waits half a minute for somebody to read its answer.
        """
        self.finish_writing()
        given = {number: job for number, job in self._cache.items() if _is_given(job)}
        super().flush()
        given = {number: job for number, job in given.items() if job._write_to._is_alive()}
        self._cache.update(given)
        self._busy_workers.update(job._write_to.inqW_fd for job in given.values())

    def finish_writing(self) -> None:
        """Write whole what a process has half of: it would wait for the other half for ever."""
        for job in list(self._cache.values()):
            if (writer := _get_job_writer(job)) is not None:
                with suppress(StopIteration, OSError):  # written, or its process is gone
                    while _select(writers={job._write_to.inqW_fd}, timeout=READ_WITHIN)[1]:
                        next(writer)

    def kill(self) -> None:
        for process in list(self._pool):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


class Pool(TaskPool):
    """Celery's prefork pool, of such processes."""

    Pool = _Processes

    def finish_writing(self) -> None:
        self._pool.finish_writing()

    def on_stop(self) -> None:
        """Wait for the processes, but not for one that is past any time limit: whatever it is, it would be for ever."""
        if self._pool is None:
            return
        watchdog = threading.Timer(self.app.conf.task_time_limit + GRACE, self._pool.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            super().on_stop()
        finally:
            watchdog.cancel()


def _is_given(job: Any) -> bool:
    return job._write_to is not None and _get_job_writer(job) is None


def _let_go_of_loop(hub: Any) -> None:
    if hub is not None:
        hub.poller.close()
        if hub._waker is not None:
            hub._waker.close()


def _let_go_of_end(process: Any) -> None:
    process._popen.close()
    if (watched := getattr(process, "_sentinel_poll", None)) is not None:
        os.close(watched)
