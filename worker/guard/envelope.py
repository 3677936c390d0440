"""A list item of a Redis broker: a message as kombu writes it, or whatever else somebody has pushed there."""

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from kombu.utils.json import loads

from worker.guard.parking import LIST_ITEM
from worker.guard.shape import DEEPEST, too_deep

# Bytes, before anything reads it: twice what the gate lets pass, which comes in base64. JSON takes up to 20 times its
# length in memory.
LARGEST = 32 * 1024 * 1024


def readable(item: bytes) -> bytes:
    """The item, or a message that tells the gate to park it, if kombu cannot read it."""
    wrong = envelope_problem(item)
    return item if wrong is None else _as_message(item, wrong)


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


def delivered(properties: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """The properties, those of the delivery our own.

    A tag that two messages share acknowledges both with the first; a message that is put back (its worker was killed)
    goes where its delivery_info says, and nowhere if no such exchange is known: both lose it.
    """
    kept = {name: value for name, value in properties.items() if isinstance(value, str | int)}
    info = properties.get("delivery_info")
    redelivered = isinstance(info, Mapping) and info.get("redelivered") is True
    return kept | {
        "delivery_tag": str(uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue, "redelivered": redelivered},
    }
