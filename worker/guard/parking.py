"""Parking: keep a message whole in rejected_events, from the worker's main process."""

from typing import Any

import structlog
from sqlalchemy import NullPool

from config.settings import settings
from worker.db import rejected
from worker.db.session import make_engine

log = structlog.get_logger(__name__)


def park(body: object, error: str, source: str, code: str = "malformed") -> None:
    """Keep `body` (JSON value or raw bytes) with its reason. Raises Transient when the database is away.

    The connection lives only for this call: the main process forks, and a child must find no socket of its parent's.
    """
    engine = make_engine(settings().url("database_url"), poolclass=NullPool)
    rejected.keep(engine, body, code, error, source)
    log.warning("message parked in rejected_events", action="message_parked", error=error, source=source, code=code)


def whole(message: Any) -> dict[str, Any]:
    """All of a kombu message that can be kept: headers and body, the body as it came."""
    return {
        "headers": message.headers,
        "content_type": message.content_type,
        "body": rejected.storable(message.body if isinstance(message.body, bytes) else str(message.body).encode()),
    }


def queue_of(message: Any) -> str:
    info = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    return str(info.get("routing_key") or "unknown")
