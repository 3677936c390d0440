"""Tells how long each run of a task took: loaded into a worker by tests (`--include tests.timed`)."""

import os
import sys
import time
from typing import Any

from celery.signals import task_postrun, task_prerun

_begun: list[float] = []


@task_prerun.connect
def _begins(**_: Any) -> None:
    _begun[:] = [time.monotonic()]


@task_postrun.connect
def _ends(task: Any, **_: Any) -> None:
    os.write(sys.stderr.fileno(), f"took {task.name} {time.monotonic() - _begun[0]:.3f}\n".encode())
