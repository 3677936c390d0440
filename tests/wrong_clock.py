"""For a worker of a test: its machine's clock is ten minutes slow, as far as `doctor` can see."""

import time
from typing import Any

from celery.worker.control import inspect_command

from worker.guard import clock  # noqa: F401 - so that this one comes after it


@inspect_command()
def wall_clock(_state: Any) -> dict[str, float]:
    return {"now": time.time() - 600}
