"""kombu's Redis transport, which survives list items that are no messages (a raw LPUSH by a foreign producer).

kombu takes the item off the list before it reads it, so an item that it cannot read is lost and the connection with it
(`KeyError('properties')`, or a JSON error that kills the worker). Here such an item is parked instead.
"""

import binascii
import json
import time
from base64 import b64decode
from typing import Any

import structlog
from kombu.transport import redis
from redis.exceptions import ConnectionError as Unreachable

from worker.errors import Transient
from worker.guard.parking import park

log = structlog.get_logger(__name__)

# Seconds: while the database is away the item goes back to its list, and the worker has nothing better to do.
PAUSE = 1.0


class Channel(redis.Channel):
    """kombu's channel with a check between Redis and kombu's decoder."""

    def _get_client(self) -> Any:
        return _checked(super()._get_client())

    def _connparams(self, asynchronous: bool = False) -> Any:
        # kombu 5.7: when the broker goes away under unacknowledged messages, Celery collects the connection and then
        # closes it, and the close wants to restore them through a connection that has no address any more. That
        # AttributeError ended the worker; a connection error is what its caller expects and ignores.
        if self.connection.client is None:
            raise Unreachable("the connection to the broker is closed")
        return super()._connparams(asynchronous=asynchronous)


class Transport(redis.Transport):
    """kombu's transport with the checked channel."""

    Channel = Channel


def _checked(client_class: Any) -> Any:
    class Client(client_class):
        """What BRPOP brings is a message, or it is parked and BRPOP brought nothing."""

        def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
            answer = super().parse_response(connection, command_name, **options)
            if command_name != "BRPOP" or not answer or envelope_problem(answer[1]) is None:
                return answer
            _park(self, *answer)
            return None

    return Client


def envelope_problem(item: bytes) -> str | None:
    """What keeps kombu from reading this list item, or None."""
    try:
        message = json.loads(item)
    except (ValueError, RecursionError):
        return "it should be JSON"
    if not isinstance(message, dict):
        return "it should be a JSON object"
    properties = message.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_info"), dict):
        return "it should have properties with delivery_info"
    if not isinstance(properties.get("delivery_tag"), str):
        return "it should have a delivery_tag"
    if not isinstance(message.get("headers") or {}, dict):
        return "its headers should be an object"
    return _body_problem(message.get("body"), properties.get("body_encoding"))


def _body_problem(body: object, encoding: object) -> str | None:
    if not isinstance(body, str):
        return "its body should be text"
    if encoding not in (None, "base64"):
        return "its body_encoding should be base64"
    try:
        if encoding == "base64":
            b64decode(body)
    except (binascii.Error, ValueError):
        return "its body should be base64"
    return None


def _park(client: Any, key: bytes, item: bytes) -> None:
    queue = key.decode(errors="replace")
    error = (
        f"a raw item on the list {queue!r}: {envelope_problem(item)}; other producers than Celery and kombu use HTTP"
    )
    try:
        park(item, error, queue)
    except Transient as away:
        log.warning("parking waits for the database", action="parking_postponed", error=str(away))
        client.lpush(key, item)
        time.sleep(PAUSE)
