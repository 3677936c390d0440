"""Who may call a Flower that asks for no password: this machine, and no page of the web that its browser shows.

Flower lets any page read it then (`Access-Control-Allow-Origin: *`), stop workers and send tasks.
"""

from typing import Any
from urllib.parse import urlsplit

from tornado.options import options
from tornado.web import Application, ErrorHandler

from config.settings import LOOPBACK, settings


def guard(application: type[Application]) -> None:
    """Answer strangers with 403, before any page of `application`."""
    find: Any = application.find_handler

    def find_handler(self: Any, request: Any, **more: Any) -> Any:
        if _is_stranger(request.host, request.headers.get("Origin")):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return find(self, request, **more)

    application.find_handler = find_handler  # type: ignore[method-assign]


def _is_stranger(host: str, origin: str | None) -> bool:
    """By the name that was called, which a page may have resolve to us, or by the page that calls.

    Where a password is asked for, Flower itself compares the two, and its name is whatever a proxy calls it.
    """
    if options.basic_auth or options.auth:
        return False
    return not (_is_ours(f"//{host}") and (origin is None or _is_ours(origin)))


def _is_ours(url: str) -> bool:
    try:
        return urlsplit(url).hostname in (*LOOPBACK, *(settings().hosts or ()))
    except ValueError:
        return False
