"""What time a worker has. `doctor` asks every worker for it; importing this module teaches a worker the answer."""

import time
from typing import Any

from celery.worker.control import inspect_command


@inspect_command()
def wall_clock(_state: Any) -> dict[str, float]:
    """Seconds since the epoch, by the clock of the worker's machine."""
    return {"now": time.time()}
