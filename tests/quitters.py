"""What tells a child of a worker to go in the middle of a commit: loaded by tests (`--include tests.quitters`).

While the file named by REDIRECT_TEST_QUIT is there: of every so many commits a SIGQUIT, up to two milliseconds after
it was begun. That is before it, inside it or behind it, at whatever line of Python it is then.
"""

import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from celery import current_task
from sqlalchemy import Engine, event

# Of the commits of a redirect, and of all others: a copy that fails each time waits for longer and longer.
_REDIRECT, _OTHER = 0.6, 0.2
_LATEST = 0.002
_WHILE = Path(os.environ["REDIRECT_TEST_QUIT"])
_chance = random.SystemRandom()
_told = False


@event.listens_for(Engine, "commit")
def _in_a_commit(_connection: Any) -> None:
    global _told  # noqa: PLW0603 - of this process: a second signal would end it outright
    if not _told and _chance.random() < _share() and _WHILE.exists():
        _told = True
        threading.Timer(_chance.uniform(0, _LATEST), _quit).start()


def _share() -> float:
    """Only of a first try: a redirect that loses its process each time would be kept as a killer, as it should."""
    if not current_task or current_task.request.retries:
        return 0.0
    return _REDIRECT if current_task.name == "redirect_conversation" else _OTHER


def _quit() -> None:
    os.write(sys.stderr.fileno(), b"told to go in a commit\n")
    os.kill(os.getpid(), signal.SIGQUIT)
