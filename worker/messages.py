"""What a message of the JSON queue or an HTTP body holds: one event, an array of events, or CloudEvents. Pure.

CloudEvents 1.0: the JSON format (structured and batch), and the AMQP and HTTP bindings' binary mode.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from worker.errors import Rejected
from worker.events import MAX_BYTES, decode, too_large

# Bytes of a whole body (characters, where it comes as text), before it is decoded: what one task message may hold, too.
LARGEST_BODY = 16 * 1024 * 1024
# Each refused item becomes a row, and 16 MiB hold eight million items that are none.
MOST_EVENTS = 10_000

TYPE = "workflow.redirect"
CLOUDEVENTS = "application/cloudevents"
# The prefixes of CloudEvents attributes in AMQP application properties, and in HTTP headers.
_HTTP = "ce-"
_PREFIXES = ("cloudevents:", "cloudevents_", _HTTP)
_ATTRIBUTES = {"id": "event_id", "subject": "conversation_id", "time": "occurred_at", "source": "source"}
# An extension that CloudEvents documents (distributed tracing), by the name that our event has for it.
_ATTRIBUTES |= {"traceparent": "traceparent"}


@dataclass(frozen=True)
class Unpacked:
    """`events`: each the JSON object of one event, at most 64 KiB of UTF-8, not validated yet; in order.

    `refused`: what can be none, with the reason; `refused_at`: the position of each of them in the message.
    """

    events: list[str] = field(default_factory=list)
    refused: list[tuple[object, Rejected]] = field(default_factory=list)
    refused_at: list[int] = field(default_factory=list)

    @property
    def events_at(self) -> list[int]:
        """The position of each event in the message."""
        others = set(self.refused_at)
        return [at for at in range(len(self.events) + len(others)) if at not in others]


def unpack(body: bytes | str, content_type: str | None = None, headers: Mapping[str, Any] | None = None) -> Unpacked:
    """The events in `body`. Never raises: what cannot be read is in `refused`, whole.

    What came in CloudEvents' binary mode is refused as the same event in structured mode.
    """
    cloud_only = content_type is not None and content_type.strip().lower().startswith(CLOUDEVENTS)
    if headers and not cloud_only and "specversion" in (attributes := _attributes(headers)):
        cloud = _structured(attributes, body)
        return _unpacked([cloud], [cloud], None, cloud_only=True)
    try:
        text, value = _read(body)
        values = _items(value) if isinstance(value, list) else None
    except Rejected as refusal:
        return Unpacked([], [(body, refusal)], [0])
    if values is None:
        return _unpacked([value], [body], text, cloud_only)
    return _unpacked(values, values, None, cloud_only)


def _read(body: bytes | str) -> tuple[str | None, Any]:
    """The body as text, or None where it is no UTF-8 as it stands; and the JSON value in it."""
    if len(body) > LARGEST_BODY:
        raise too_large("a message", LARGEST_BODY, len(body))
    try:
        text = body if isinstance(body, str) else body.decode()
        if text is body and not text.isascii():
            text.encode()
        return text, json.loads(text)
    except (ValueError, RecursionError):  # UTF-16, a byte order mark, a lone surrogate; or no JSON at all
        return None, decode(body)


def _items(values: list[Any]) -> list[Any]:
    if not values:
        raise Rejected("malformed", "an array should hold at least one event")
    if len(values) > MOST_EVENTS:
        raise Rejected("too_large", f"an array should hold at most {MOST_EVENTS} events, not {len(values)}")
    return values


def _unpacked(values: Sequence[Any], raws: Sequence[object], text: str | None, cloud_only: bool) -> Unpacked:
    unpacked = Unpacked()
    for at, value in enumerate(values):
        try:
            unpacked.events.append(_event(value, text, cloud_only))
        except Rejected as refusal:
            unpacked.refused.append((raws[at], refusal))
            unpacked.refused_at.append(at)
    return unpacked


def _event(value: Any, text: str | None, cloud_only: bool) -> str:
    """The JSON of one event: `text`, where it came as one."""
    if not isinstance(value, dict):
        raise Rejected("malformed", "an event should be a JSON object, or an array of them")
    if cloud_only or "specversion" in value:
        value, text = _of_cloudevent(value), None
    if text is None:
        text = _encoded(value)
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_BYTES:
        raise too_large("an event", MAX_BYTES, size)
    return text


def _encoded(value: dict[str, Any]) -> str:
    """As compact as the producer may have written it, or an event within the limit would exceed it here."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise Rejected("malformed", f"should be JSON: {error}") from None
    return text.encode("utf-8", "backslashreplace").decode()  # which writes a lone surrogate as JSON does


def _attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    """CloudEvents attributes by their names."""
    found = {}
    for name, value in headers.items():
        lower = name.lower() if isinstance(name, str) else ""
        for prefix in _PREFIXES:
            if lower.startswith(prefix):
                found[lower.removeprefix(prefix)] = _attribute(value, prefix == _HTTP)
    return found


def _attribute(value: Any, http: bool) -> Any:
    if isinstance(value, datetime):  # py-amqp's timestamps are UTC and do not say so
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    # Bytes that are no text must not all become the same character: two ids could become one.
    return unquote(value, errors="surrogateescape") if http and isinstance(value, str) else value


def _structured(attributes: Mapping[str, Any], body: bytes | str) -> dict[str, Any]:
    """Binary mode as structured mode; data that is no JSON stays base64."""
    cloud = {name: value for name, value in attributes.items() if name not in ("data", "data_base64")}
    try:
        return cloud | ({"data": _read(body)[1]} if body else {})
    except Rejected:
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        return cloud | {"data_base64": b64encode(raw).decode()}


def _of_cloudevent(cloud: Mapping[str, Any]) -> dict[str, Any]:
    if cloud.get("specversion") != "1.0":
        raise Rejected("malformed", "specversion should be 1.0")
    if cloud.get("type") != TYPE:
        raise Rejected("malformed", f"type should be {TYPE}")
    attributes = {ours: cloud[theirs] for theirs, ours in _ATTRIBUTES.items() if cloud.get(theirs) is not None}
    return _data(cloud) | attributes


def _data(cloud: Mapping[str, Any]) -> dict[str, Any]:
    data = cloud.get("data")
    if "data_base64" in cloud:
        try:
            data = b64decode(cloud["data_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise Rejected("malformed", "data_base64 should be base64") from None
    if isinstance(data, str | bytes):
        data = decode(data)
    if data is not None and not isinstance(data, dict):
        raise Rejected("malformed", "data should be a JSON object with the rest of the event")
    return data or {}
