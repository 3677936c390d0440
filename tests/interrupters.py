"""What tells a worker to go in the middle of something: loaded by tests (`--include tests.interrupters`).

REDIRECT_TEST_INTERRUPT names the moment. A signal that a process sends to itself is handled before its next line.
"""

import os
import signal
import sys
from typing import Any

from billiard.connection import Connection
from celery.events.dispatcher import EventDispatcher
from celery.worker.state import active_requests

from worker.app import app

app.conf.worker_soft_shutdown_timeout = 1
# Bytes: what follows it is the other half.
HEADER = 4
_main, _told = os.getpid(), False


def _interrupt(moment: str) -> None:
    global _told  # noqa: PLW0603 - of this process: the second signal means something else
    if not _told and os.getpid() == _main and os.environ["REDIRECT_TEST_INTERRUPT"] == moment:
        _told = True
        os.write(sys.stderr.fileno(), b"interrupted\n")
        os.kill(_main, signal.SIGQUIT)


def _send_offset(self: Any, what: Any, *args: Any) -> Any:
    if len(what) > HEADER:
        _interrupt("a call")
    return _send(self, what, *args)


def _publish(self: Any, *args: Any, **kwargs: Any) -> Any:
    if self.mutex.locked() and active_requests:
        self.buffer_limit = 1  # of what the way out tells Flower nothing waits
        _interrupt("an event for Flower")
    return _tell(self, *args, **kwargs)


_send, Connection.send_offset = Connection.send_offset, _send_offset  # type: ignore[assignment,method-assign]
_tell, EventDispatcher._publish = EventDispatcher._publish, _publish  # type: ignore[attr-defined]
