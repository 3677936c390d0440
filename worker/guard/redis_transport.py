"""kombu's Redis transport, which survives list items that are no messages (a raw LPUSH by a foreign producer).

kombu takes the item off the list before it reads it, so an item that it cannot read is lost and the connection with it
(`KeyError('properties')`, or a JSON error that kills the worker). Here such an item becomes a message that the gate
parks: until then it is unacknowledged like any other, and nothing that happens to the worker loses it.
"""

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as Unreachable

from worker.guard.delivery import ADRIFT, QoS, delivered, put_back
from worker.guard.parking import LIST_ITEM
from worker.guard.shape import DEEPEST, too_deep

log = structlog.get_logger(__name__)

# Bytes, before anything reads it: twice what the gate lets pass, which comes in base64. JSON takes up to 20 times its
# length in memory.
LARGEST = 32 * 1024 * 1024


class Channel(redis.Channel):
    """kombu's channel with a check between Redis and kombu's decoder."""

    QoS = QoS

    def _get_client(self) -> Any:
        return _checked(super()._get_client())

    def _connparams(self, asynchronous: bool = False) -> Any:
        # kombu 5.7: when the broker goes away under unacknowledged messages, Celery collects the connection and then
        # closes it, and the close wants to restore them through a connection that has no address any more. That
        # AttributeError ended the worker; a connection error is what its caller expects and ignores.
        if getattr(self.connection, "client", None) is None:
            raise Unreachable("the connection to the broker is closed")
        return super()._connparams(asynchronous=asynchronous)

    def _brpop_start(self, *args: Any, **kwargs: Any) -> Any:
        if ADRIFT:
            with self.conn_or_acquire() as client:
                put_back(client)
        return super()._brpop_start(*args, **kwargs)

    def _receive_one(self, client: Any) -> Any:
        """One message of the control channel (Flower, `celery control`), which anybody can publish on."""
        lost = [kind for kind in self.connection_errors if kind is not KeyError]
        try:
            return super()._receive_one(client)
        except (*lost, Empty):
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it: it is no event, and nobody counts on it
            log.warning("a control message that cannot be read", action="control_dropped", error=repr(error))
            return None


class Transport(redis.Transport):
    """kombu's transport with the checked channel."""

    Channel = Channel

    def _deliver(self, message: Any, queue: Any) -> None:
        message["properties"] = delivered(message["properties"], queue)
        super()._deliver(message, queue)


def _checked(client_class: Any) -> Any:
    class Client(client_class):
        """What BRPOP brings is a message, or becomes one."""

        def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
            answer = super().parse_response(connection, command_name, **options)
            if command_name != "BRPOP" or not answer or (wrong := envelope_problem(answer[1])) is None:
                return answer
            return answer[0], _as_message(answer[1], wrong)

    return Client


def _as_message(item: bytes, wrong: str) -> bytes:
    reason = f"a raw item on the list: {wrong}; other producers than Celery and kombu use HTTP"
    properties = {"body_encoding": "base64"}
    message = {"body": b64encode(item).decode(), "content-type": LIST_ITEM, "content-encoding": "binary"}
    return json.dumps(message | {"headers": {"problem": reason}, "properties": properties}).encode()


def envelope_problem(item: bytes) -> str | None:
    """What keeps kombu from reading this list item, or from putting it back, or None."""
    if len(item) > LARGEST:
        return f"it should be at most {LARGEST} bytes"
    try:
        message = loads(item.decode())
    except Exception as error:  # noqa: BLE001 - kombu's decoder makes dates, numbers and bytes of what it finds
        return f"it should be JSON: {type(error).__name__}"
    if not isinstance(message, dict):
        return "it should be a JSON object"
    if too_deep(message):
        return f"it should be nested at most {DEEPEST} levels deep"
    return _parts_problem(message)


def _parts_problem(message: Mapping[str, Any]) -> str | None:
    properties = message.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_info"), dict):
        return "it should have properties with delivery_info"
    if not isinstance(properties.get("delivery_tag"), str):
        return "it should have a delivery_tag"
    # Not null: kombu reads that, and cannot put it back.
    if not isinstance(message.get("headers", {}), dict):
        return "its headers should be an object"
    return _body_problem(message.get("body"), properties.get("body_encoding"))


def _body_problem(body: object, encoding: object) -> str | None:
    if not isinstance(body, str):
        return "its body should be text"
    if encoding not in (None, "base64", "utf-8"):
        return "its body_encoding should be base64"
    try:
        if encoding == "base64":
            b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return "its body should be base64"
    return None
