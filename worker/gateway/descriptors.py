"""File descriptors: how many sockets they are enough for, and what is said when there is none left."""

import asyncio
import errno
import resource
import time
from typing import Any

import structlog

from config.settings import settings

log = structlog.get_logger(__name__)

# For the database, Redis, requests, and what Python itself has open. A gateway that gives its last one to a browser has
# none to connect again with, and then serves nobody.
RESERVED = 32
_silent_until = 0.0


def most_sockets() -> int:
    """REDIRECT_SOCKETS, or as many as there are descriptors for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return settings().sockets if limit == resource.RLIM_INFINITY else min(settings().sockets, max(1, limit - RESERVED))


def tell_of_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's, but of a connection for which there is no descriptor in one line a second.

    asyncio tries again each second, as often as the backlog is long, with a traceback for each: 2,048.
    """
    global _silent_until  # noqa: PLW0603 - one loop, one log
    if getattr(context.get("exception"), "errno", None) not in (errno.EMFILE, errno.ENFILE):
        loop.default_exception_handler(context)
    elif time.monotonic() >= _silent_until:
        _silent_until = time.monotonic() + 1.0
        log.warning("no file descriptor is left: new connections wait", action="gateway_full")
