"""Frames that py-amqp cannot read become messages that say so."""

import struct
from base64 import b64decode
from random import Random
from typing import Any

import pytest
from amqp import spec
from amqp.basic_message import Message

from tests.fuzz.amqp_wire import Raw, Wire, nested, properties
from worker.guard.amqp_frames import UNREADABLE, readable_frames


class Connection:
    """As much of one as a handler of frames asks for."""

    bytes_recv = 0


def received(message: Any, routing_key: bytes = b"redirects", body: bytes = b"{}") -> tuple[bytes, Message]:
    """The arguments of the delivery, and the message, as py-amqp would hand them on."""
    found: list[Any] = []
    on_frame = readable_frames(Connection(), lambda *one: found.append(one))
    sized = b"".join(bytes([len(text)]) + text for text in (b"", routing_key))
    delivery = struct.pack(">HH", *spec.Basic.Deliver) + b"\x04tag1" + struct.pack(">QB", 200, 0) + sized
    on_frame((1, 1, delivery))
    on_frame((2, 1, struct.pack(">HHQ", 60, 0, len(body)) + message._serialize_properties()))
    if body:
        on_frame((3, 1, body))
    ((_, _, arguments, made),) = found
    return arguments, made


def odd(**texts: bytes) -> Raw:
    return Raw(b"", properties(Random(0), {"x": 1}, 0, **texts))


@pytest.mark.parametrize("body", [b"{}", b""])
@pytest.mark.parametrize(
    "message",
    [
        Raw(b"", properties(Random(0), {"sent": Wire(b"T" + struct.pack(">Q", 1_800_000_000_000))}, 0)),
        Raw(b"", properties(Random(0), {"deep": Wire(nested(2000))}, 0)),
        Raw(b"", b"\xff"),
        odd(content_type=b"\xff"),
        odd(message_id=b"\xff\xfe"),
    ],
    ids=["a time in milliseconds", "deep arrays", "cut off", "a type that is no text", "an id that is no text"],
)
def test_properties_that_cannot_be_read(message: Raw, body: bytes) -> None:
    """The body is handed on, with a content type that says so, the reason, and every byte of the properties."""
    _, made = received(message, body=body)
    told = made.properties
    assert told["content_type"] == UNREADABLE
    assert told["application_headers"]["problem"].startswith("its properties cannot be read")
    assert b64decode(told["application_headers"]["properties"]) == message._serialize_properties()
    assert made.body_received == len(body)


def test_what_can_be_read_is_left_as_it_is() -> None:
    """Also a delivery with a number of many bytes, and a name that is not ASCII."""
    arguments, made = received(odd(content_type=b"application/json"), "سلام".encode())
    assert made.properties["content_type"] == "application/json"
    assert arguments.endswith(bytes([8]) + "سلام".encode())


def test_a_routing_key_that_is_no_text() -> None:
    """It is as long as before, so that the rest of the delivery is in its place."""
    arguments, _ = received(odd(), b"a\xff\xfeb")
    assert arguments.endswith(b"\x00\x04a??b")


def test_an_error_of_ours_is_not_the_messages_fault() -> None:
    """What the callback raises is raised, and it is not called again."""
    called: list[object] = []

    def callback(*_: object) -> None:
        called.append(1)
        raise LookupError

    on_frame = readable_frames(Connection(), callback)
    on_frame((1, 1, struct.pack(">HH", *spec.Basic.Deliver) + b"\x01t" + struct.pack(">QB", 1, 0) + b"\x00\x00"))
    with pytest.raises(LookupError):
        on_frame((2, 1, struct.pack(">HHQ", 60, 0, 0) + Raw(b"", b"\x00\x00")._serialize_properties()))
    assert called == [1]
