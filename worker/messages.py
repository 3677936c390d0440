"""What a message of the JSON queue or an HTTP body holds: one event, an array of events, or CloudEvents. Pure.

CloudEvents 1.0: the JSON format (structured and batch), and the AMQP and HTTP bindings' binary mode.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md
"""

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.errors import Rejected
from worker.events import MAX_BYTES, decode, encode, too_large

# Bytes of a whole body, before it is decoded: what one task message may hold, too.
LARGEST_BODY = 16 * 1024 * 1024

TYPE = "workflow.redirect"
# The prefixes of CloudEvents attributes in AMQP application properties and in HTTP headers.
_PREFIXES = ("cloudevents:", "cloudevents_", "ce-")
_ATTRIBUTES = {"id": "event_id", "subject": "conversation_id", "time": "occurred_at", "source": "source"}


@dataclass(frozen=True)
class Unpacked:
    """`events`: each the JSON of one event, not validated yet. `refused`: what can be none, with the reason."""

    events: list[str] = field(default_factory=list)
    refused: list[tuple[object, Rejected]] = field(default_factory=list)


def unpack(body: bytes | str, content_type: str | None = None, headers: Mapping[str, Any] | None = None) -> Unpacked:
    """The events in `body`, in order. Never raises: what cannot be read is in `refused`, whole."""
    try:
        value = _value(body, content_type or "", headers or {})
    except Rejected as refusal:
        return Unpacked(refused=[(body, refusal)])
    if not isinstance(value, list):
        return _unpacked([value], [body])
    return _unpacked(value, value)


def _unpacked(values: list[Any], raws: list[Any]) -> Unpacked:
    unpacked = Unpacked()
    for value, raw in zip(values, raws, strict=True):
        try:
            unpacked.events.append(_event(value, raw))
        except Rejected as refusal:
            unpacked.refused.append((raw, refusal))
    return unpacked


def _value(body: bytes | str, content_type: str, headers: Mapping[str, Any]) -> Any:
    if len(body) > LARGEST_BODY:
        raise too_large("a message", LARGEST_BODY, len(body))
    attributes = _binary_attributes(headers)
    if "specversion" in attributes:
        return attributes | {"data": decode(body) if body else None}
    value = decode(body)
    if content_type.startswith("application/cloudevents-batch") and not isinstance(value, list):
        raise Rejected("malformed", "a CloudEvents batch should be a JSON array")
    return value


def _binary_attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    """CloudEvents attributes by their names; timestamps as text."""
    found = {}
    for name, value in headers.items():
        for prefix in _PREFIXES:
            if isinstance(name, str) and name.lower().startswith(prefix):
                found[name[len(prefix) :].lower()] = value.isoformat() if hasattr(value, "isoformat") else value
    return found


def _event(value: Any, raw: object) -> str:
    """The JSON of one event: as it came, where it came as one."""
    if isinstance(value, dict) and "specversion" in value:
        raw = value = _of_cloudevent(value)
    if not isinstance(value, dict):
        raise Rejected("malformed", "an event should be a JSON object, or an array of them")
    text = raw if isinstance(raw, str) else encode(value).decode("utf-8", "surrogatepass")
    if isinstance(raw, bytes):
        text = _text(raw) or text
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise too_large("an event", MAX_BYTES, len(text))
    return text


def _text(raw: bytes) -> str | None:
    """The body as text; None for JSON in another encoding than UTF-8."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text else text


def _of_cloudevent(cloud: Mapping[str, Any]) -> dict[str, Any]:
    if cloud["specversion"] != "1.0":
        raise Rejected("malformed", "specversion should be 1.0")
    if cloud.get("type") != TYPE:
        raise Rejected("malformed", f"type should be {TYPE}")
    attributes = {ours: cloud[theirs] for theirs, ours in _ATTRIBUTES.items() if cloud.get(theirs) is not None}
    return _data(cloud) | attributes


def _data(cloud: Mapping[str, Any]) -> dict[str, Any]:
    data = cloud.get("data")
    if "data_base64" in cloud:
        try:
            data = decode(b64decode(cloud["data_base64"], validate=True))
        except (binascii.Error, TypeError, ValueError):
            raise Rejected("malformed", "data_base64 should be base64") from None
    if isinstance(data, str):
        data = json.loads(data) if data.startswith("{") else data
    if data is not None and not isinstance(data, dict):
        raise Rejected("malformed", "data should be a JSON object with the rest of the event")
    return data or {}
