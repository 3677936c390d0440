"""The poison set as AMQP messages: what an item of a Redis list says about a message, a stranger may publish."""

import base64
import json
from typing import Any

from amqp.basic_message import Message
from kombu import Connection

from tests.poison import Case

# Bytes of all properties: they come in one frame, and RabbitMQ closes the connection over a larger one.
FRAME = 100_000


def publish(connection: Connection, case: Case) -> bool:
    """Publish the message of `case` to its queue; False for one that only a Redis list can hold."""
    if case.name.startswith("raw:"):  # damaged as a list item, healthy inside
        return False
    if (message := as_amqp(case.item)) is None:
        return False
    channel: Any = connection.default_channel
    channel.basic_publish(message, exchange="", routing_key=case.queue)
    return True


def as_amqp(item: bytes) -> Any:
    """The message that a list item says; None where AMQP has no form for it."""
    try:
        message = _message(json.loads(item))
        return message if len(message._serialize_properties()) <= FRAME else None
    except Exception:  # noqa: BLE001 - whatever it is
        return None


def _message(item: dict[str, Any]) -> Any:
    properties = {name: item["properties"].get(name) for name in ("correlation_id", "reply_to", "priority")}
    return Message(
        base64.b64decode(item["body"], validate=True),
        content_type=item["content-type"],
        content_encoding=item["content-encoding"],
        application_headers=item["headers"],
        delivery_mode=2,
        **properties,
    )
