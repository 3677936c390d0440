"""What py-amqp cannot read of a message becomes a message that says so, instead of the end of the worker.

A time in milliseconds is the year 58,000, which no date of Python's holds; a short text need not be UTF-8, and tables
lie in tables a thousand deep. RabbitMQ passes all of it on. py-amqp raises in the middle of reading, and whoever reads
goes down with it: the message is delivered again, and again.
"""

from base64 import b64encode
from collections.abc import Callable
from struct import unpack_from
from typing import Any

from amqp import spec
from amqp.basic_message import Message
from amqp.method_framing import frame_handler
from amqp.serialization import decode_properties_basic

# The content type of a message whose own properties cannot be read; its headers are `problem` and `properties`.
UNREADABLE = "application/x-unreadable-properties"
METHOD, HEADER = 1, 2
# Bytes before the properties in a header frame: the class, the weight and the size of the body.
_SIZE = 12
# Bytes of a delivery: which method it is; its number and its flag, between the consumer's tag and the exchange.
_METHOD, _NUMBER = 4, 9
OnFrame = Callable[[Any], bool]


def readable_frames(connection: Any, callback: Callable[..., object]) -> OnFrame:
    """py-amqp's own handler of frames, given nothing that it chokes on."""
    on_frame: OnFrame = frame_handler(connection, callback)

    def guarded(frame: Any) -> bool:
        kind, channel, content = frame
        if kind == METHOD and unpack_from(">HH", content) == spec.Basic.Deliver:
            return on_frame((kind, channel, _addressed(content)))
        try:
            return on_frame(frame)
        except Exception:
            if kind != HEADER or (wrong := _problem(content)) is None:
                raise
            return on_frame((kind, channel, content[:_SIZE] + _instead(content[_SIZE:], wrong)))

    return guarded


def _problem(content: bytes) -> Exception | None:
    """What keeps these properties from being read; None if nothing does, and something else was wrong."""
    try:
        decode_properties_basic(content, _SIZE)
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything; the bytes are at fault, not the worker
        return error
    return None


def _instead(properties: bytes, wrong: Exception) -> bytes:
    told = {"problem": f"its properties cannot be read: {type(wrong).__name__}: {wrong}"}
    told["properties"] = b64encode(properties).decode()
    raw: bytes = Message(content_type=UNREADABLE, application_headers=told)._serialize_properties()
    return raw


def _addressed(delivery: bytes) -> bytes:
    """A delivery whose exchange and routing key are text. (The header `CC` lets a producer write any other there.)"""
    start = _METHOD + 1 + delivery[_METHOD] + _NUMBER
    if delivery[start:].isascii():
        return delivery
    middle = start + 1 + delivery[start]
    exchange, routing_key = delivery[start + 1 : middle], delivery[middle + 1 :]
    return delivery[:start] + _text(exchange) + _text(routing_key)


def _text(raw: bytes) -> bytes:
    """As a short text; what is not UTF-8 is replaced, byte by byte, so that it stays as short."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        raw = raw.decode("ascii", "replace").replace("\ufffd", "?").encode()
    return bytes([len(raw)]) + raw
