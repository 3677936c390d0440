"""Parking: keep a message whole in rejected_events, from the worker's main process, before it is acknowledged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import structlog
from kombu.asynchronous import get_event_loop
from sqlalchemy import Engine, NullPool

from config.settings import settings
from worker.db import rejected
from worker.db.session import make_engine
from worker.errors import Transient

log = structlog.get_logger(__name__)

# The one task whose messages carry events: whatever becomes of them, they are kept. The others only ring.
REDIRECT = "redirect_conversation"
# The queue of what beat asks for.
MAINTENANCE = "maintenance"
REDIRECTS = "redirects"
# The content type under which the Redis transport hands on a list item that is no message.
LIST_ITEM = "application/x-list-item"
# Seconds between tries while the database is away. The messages stay unacknowledged: the broker keeps them.
PARK_AGAIN = 5.0
# Characters: a reason is for a person; the message itself is beside it.
LONGEST_ERROR = 1000


@dataclass(frozen=True, eq=False)
class _Ticket:
    """What is to be kept, and what to do once it is."""

    bodies: Sequence[object]
    error: str
    source: str
    code: str
    then: Callable[[], object]


# Those that wait for the database; a timer of the event loop runs while there are any.
_waiting: list[_Ticket] = []


def park(
    bodies: Sequence[object], error: str, source: str, *, then: Callable[[], object], code: str = "malformed"
) -> None:
    """Keep `bodies` (JSON values or raw bytes) with their reason, then call `then`, which lets go of the message.

    While the database is away both wait, and so does whatever comes after: it is asked once for all, not once for each.
    """
    _waiting.append(_Ticket(bodies, error[:LONGEST_ERROR], source, code, then))
    if len(_waiting) == 1:
        _park_waiting()


def _park_waiting() -> None:
    try:
        for ticket in list(_waiting):
            if _kept(ticket):
                _waiting.remove(ticket)
                ticket.then()
    except Transient as away:
        log.warning(
            "parking waits for the database", action="parking_postponed", error=str(away), waiting=len(_waiting)
        )
    finally:
        loop = get_event_loop()
        if _waiting and loop is not None:
            loop.call_later(PARK_AGAIN, _park_waiting)


def _kept(ticket: _Ticket) -> bool:
    """Whether it is in rejected_events now. Raises Transient when the database is away."""
    try:
        _keep(ticket)
    except Transient:
        raise
    except Exception:
        log.exception("a message cannot be parked: it stays with the broker", action="parking_failed")
        return False
    keys = {"error": ticket.error, "source": ticket.source, "code": ticket.code}
    log.warning("message parked in rejected_events", action="message_parked", **keys)
    return True


def _keep(ticket: _Ticket) -> None:
    rows = [rejected.row(body, ticket.code, ticket.error, ticket.source) for body in ticket.bodies]
    rejected.keep_all(_engine(), rows)


@lru_cache(maxsize=1)
def _engine() -> Engine:
    """A connection for each use: the main process forks, and a child must find no socket of its parent's."""
    return make_engine(settings().url("database_url"), poolclass=NullPool)


def whole(message: Any) -> object:
    """All of a kombu message that can be kept: what a producer wrote, the body as it came."""
    if message.content_type == LIST_ITEM:
        return message.body
    return {
        "headers": message.headers,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "body": message.body if isinstance(message.body, str) else rejected.storable(message.body or b""),
    }


def queue_of(message: Any) -> str:
    info = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    return str(info.get("routing_key") or "unknown")
