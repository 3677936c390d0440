"""The outbox: taken, passed on and deleted in one transaction, so that nothing is ever in neither place."""

import threading

import structlog

from config.settings import settings
from worker.app import app
from worker.db import outbox, rejected
from worker.db.session import engine, translated
from worker.errors import Transient
from worker.failpoints import reach
from worker.intake.forward import WAITS, Forward, Stopped
from worker.messages import unpack

log = structlog.get_logger(__name__)

SOURCE = "event_outbox"
# Seconds until it is looked at again: after there was something, and when there was nothing for a while. An idle look
# costs one index look-up; NOTIFY for each row would take a lock of the whole database at each producer's commit.
BUSY, IDLE = 0.02, 0.5


def run(stop: threading.Event) -> None:
    """Until told to stop."""
    forward = Forward(app, stop)
    wait = BUSY
    while not stop.wait(wait):
        try:
            taken = _pass_on(forward)
        except Stopped:
            break
        except Transient as error:
            log.warning("the outbox waits for the database", action="outbox_postponed", error=str(error))
            wait = WAITS[1]
        except Exception:
            log.exception("the outbox cannot be passed on: tried again", action="outbox_failed")
            wait = WAITS[1]
        else:
            wait = 0.0 if taken == settings().batch else BUSY if taken else min(IDLE, wait * 2 or BUSY)
    forward.close()


def _pass_on(forward: Forward) -> int:
    """The number of rows taken. If it fails anywhere, all of them are still in the outbox."""
    with translated(), engine().begin() as connection:
        bodies = outbox.take(connection, settings().batch)
        if bodies:
            reach("intake_after_take_before_publish")
        unpacked = [unpack(body) for body in bodies]
        for body, why in (refused for found in unpacked for refused in found.refused):
            rejected.insert(connection, rejected.row(body, why.code, why.error, SOURCE))
        if events := [event for found in unpacked for event in found.events]:
            forward.send(events, meanwhile=_not_now)
            reach("intake_after_publish_before_delete")
        return len(bodies)


def _not_now() -> None:
    """The broker takes nothing. No transaction waits for it: it would keep dead rows from being cleaned up."""
    raise Transient("the broker takes nothing")
