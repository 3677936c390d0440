"""Signals that tell a worker to go: heard at once, obeyed between two turns of its event loop.

Celery obeys in the signal handler, in the middle of whatever the worker does just then: half a call is written to a
process, which waits for the other half for ever; or a lock is held that the way out takes too. Such a worker never
ends, and keeps what it has in hand. (docs/decisions/0015-a-given-call-is-tracked.md)
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from celery.worker.state import maybe_shutdown

Handler = Callable[[int, Any], object]

TO_GO = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


class Signals:
    """Those that a worker's main process gets. Outside its event loop, and behind one that it obeys, they interrupt."""

    def __init__(self) -> None:
        self._heard: deque[Callable[[], object]] = deque()
        self._wait = False
        self._pid = os.getpid()

    def take_over(self) -> None:
        """From Celery, which has its handlers by now."""
        for number in TO_GO:
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, partial(self._hear, handler))

    @contextmanager
    def waiting_for(self, hub: Any) -> Iterator[None]:
        """The event loop runs."""
        hub.on_tick.add(self._obey)
        self._wait = True
        try:
            yield
        finally:
            self._wait = False
            hub.on_tick.discard(self._obey)
            while self._heard:
                self._heard.popleft()()

    def _hear(self, handler: Handler, number: int, frame: Any) -> None:
        if self._wait and os.getpid() == self._pid:
            self._heard.append(partial(handler, number, None))
        else:
            handler(number, frame)

    def _obey(self) -> None:
        if not self._heard:
            return
        self._wait = False
        while self._heard:
            self._heard.popleft()()
        self._wait = True
        maybe_shutdown()
