"""What tells a worker to go in the middle of something: loaded by tests (`--include tests.interrupters`).

REDIRECT_TEST_INTERRUPT names the moment. A signal that a process sends to itself is handled before its next line.
"""

import os
import signal
import sys
import time
from typing import Any

from billiard.connection import Connection
from celery.events.dispatcher import EventDispatcher
from celery.worker.state import active_requests

from tests.culprits import SLOW
from worker.app import app

app.conf.worker_soft_shutdown_timeout = 3
# Seconds in which the worker obeys, and reads no more.
OBEYS = 1.5
# Bytes: what follows it is the other half.
HEADER = 4
_main, _told = os.getpid(), False


def _interrupt(moment: str) -> bool:
    global _told  # noqa: PLW0603 - of this process: the second signal means something else
    if _told or os.environ["REDIRECT_TEST_INTERRUPT"] != moment:
        return False
    _told = True
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os.kill(_main, signal.SIGQUIT)
    return True


def _send_offset(self: Any, what: Any, *args: Any) -> Any:
    if len(what) > HEADER and os.getpid() == _main:
        _interrupt("a call")
    return _send(self, what, *args)


def _publish(self: Any, *args: Any, **kwargs: Any) -> Any:
    if self.mutex.locked() and active_requests and os.getpid() == _main:
        self.buffer_limit = 1  # of what the way out tells Flower nothing waits
        _interrupt("an event for Flower")
    return _tell(self, *args, **kwargs)


def _answer(self: Any, what: Any, *args: Any) -> None:
    """In a process: half of an answer, as of one that is larger than a pipe; the process waits until it is ended."""
    if os.getpid() != _main and SLOW.encode() in bytes(what) and _interrupt("an answer"):
        time.sleep(OBEYS)
        self._send(len(what).to_bytes(HEADER) + bytes(what[: len(what) // 2]))
        time.sleep(60)
    _send_whole(self, what, *args)


_send_whole, Connection._send_bytes = Connection._send_bytes, _answer  # type: ignore[attr-defined]
_send, Connection.send_offset = Connection.send_offset, _send_offset  # type: ignore[assignment,method-assign]
_tell, EventDispatcher._publish = EventDispatcher._publish, _publish  # type: ignore[attr-defined]
