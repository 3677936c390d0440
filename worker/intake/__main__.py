"""The intake process: `python -m worker.intake`, until SIGTERM or SIGINT."""

import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import structlog

from config import logging, sentry
from config.settings import NotConfigured, settings
from worker.app import app
from worker.intake import outbox, queue

log = structlog.get_logger(__name__)

# Seconds for a batch in hand to be passed on. What is not by then was never acknowledged: it is taken again.
PATIENCE = 10.0


def main() -> None:
    """Run both ways in, each in its own thread: one that is cut off does not hold up the other."""
    logging.configure(settings().log_format)
    sentry.start("intake")
    try:
        for field in ("database_url", "broker_url"):
            settings().url(field)
    except NotConfigured as error:
        sys.exit(str(error))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, partial(_told_to_stop, stop))
    # Celery reads its options on first use. Of two threads that want them at once, one would see those of a default
    # installation: a broker on localhost.
    app.connection_for_write()
    _run([queue.run, outbox.run], stop)


def _told_to_stop(stop: threading.Event, _number: int, _frame: FrameType | None) -> None:
    stop.set()


def _run(ways: list[Callable[[threading.Event], None]], stop: threading.Event) -> None:
    threads = [threading.Thread(target=way, args=(stop,), daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    log.info("intake ready", action="intake_ready")
    while not stop.wait(1.0):
        pass
    for thread in threads:
        thread.join(PATIENCE)
    log.info("intake stopped", action="intake_stopped")


if __name__ == "__main__":
    main()
