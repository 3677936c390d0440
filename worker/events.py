"""The event: a producer's request that a conversation goes to a destination."""

import json
import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    ValidationError,
)

from worker.errors import Rejected

MAX_BYTES = 64 * 1024
MAX_METADATA_BYTES = 4 * 1024

# RFC 3339, section 5.6; the offset is not optional, because a local time orders nothing.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _instant(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("should be an RFC 3339 date and time with an offset, such as 2026-11-22T10:00:00.120Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except OverflowError:
        raise ValueError("should lie between the years 1 and 9999 in UTC") from None


# Checked by pydantic's own core, which is four times as fast as a function here; lone surrogates it refuses by itself.
Text = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]*$")]
Instant = Annotated[AwareDatetime | None, BeforeValidator(_instant)]
_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
# W3C Trace Context, version 00. Anything else is as good as missing: a redirect never fails for its trace.
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# Left to right: no value fits two of these, so the first that fits is the one.
Scalar = Annotated[Text | StrictBool | StrictInt | _Finite | None, Field(union_mode="left_to_right")]

# pydantic's word for what is wrong -> ours for what would be right.
_SAYS = {
    "string_pattern_mismatch": "should not contain the character NUL",
    "string_unicode": "should not contain lone surrogates: they are not text in any encoding",
}
_SAYS_OF_SCALAR = "should be text, a finite number, a boolean or null"


class Actor(BaseModel):
    """Who decided."""

    model_config = ConfigDict(frozen=True)

    type: Literal["workflow", "user", "system", "policy"]
    id: Text | None = None


class Event(BaseModel):
    """One redirect event; unknown fields are ignored.

    `occurred_at` orders the decisions of one conversation. It is None when the producer left it out; the ledger then
    puts the time of receipt there.
    """

    model_config = ConfigDict(frozen=True)

    event_id: Annotated[Text, Field(min_length=1, max_length=200)]
    conversation_id: Annotated[Text, Field(min_length=1, max_length=64)]
    destination: Text
    occurred_at: Instant = None
    owner_id: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    source: Text | None = None
    actor: Actor | None = None
    reason: Text | None = None
    metadata: dict[Text, Scalar] | None = None
    expires_at: Instant = None


def trace_context(value: object) -> str | None:
    """`value`, if it is one; for whoever reads it from headers."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


class Received(Event):
    """An event as it arrives: with what belongs to its way here, and is not part of what was asked.

    `received_at`: when, if it has waited in the outbox since, which adds this. It does not fill in `occurred_at`: sent
    again, the same event would have another one, and be a conflict. `traceparent`: the producer's span
    (https://www.w3.org/TR/trace-context/).
    """

    received_at: Instant = None
    traceparent: Annotated[str | None, BeforeValidator(trace_context)] = None


def parse(raw: object, destinations: Collection[str]) -> Received:
    """The event in `raw`: a dict (already decoded JSON), or JSON as str or bytes.

    Raises Rejected with code `malformed`, `too_large` or `unknown_destination`.
    """
    event = shaped(raw)
    if event.destination not in destinations:
        known = ", ".join(destinations)
        raise Rejected("unknown_destination", f"destination {event.destination!r} should be one of: {known}")
    return event


def shaped(raw: object) -> Received:
    """The same, whatever the destination: for whoever does not know the catalogue."""
    if isinstance(raw, str) and (event := _read_at_once(raw)) is not None:
        return event
    fields = _decoded(raw) if isinstance(raw, str | bytes | bytearray) else raw
    if not isinstance(fields, dict):
        raise Rejected("malformed", f"an event should be a JSON object, not {_json_type(fields)}")
    if not isinstance(raw, str | bytes | bytearray):
        _check_size(len(encode(fields)))
    try:
        event = Received.model_validate(fields)
    except ValidationError as error:
        raise Rejected("malformed", _sentence(error)) from None
    if event.metadata and len(encode(event.metadata)) > MAX_METADATA_BYTES:
        raise Rejected("malformed", "metadata: should be at most 4 KiB of JSON")
    return event


def _read_at_once(raw: str) -> Received | None:
    """A good event, decoded and validated in one go; None for whatever should be looked at more closely.

    An event this small has no metadata that is too large, however it is written: with 4 bytes for a character, and a
    space after each colon and comma.
    """
    if len(raw) * 6 > MAX_METADATA_BYTES:
        return None
    try:
        return Received.model_validate_json(raw)
    except (ValidationError, UnicodeEncodeError):
        return None


def encode(raw: object) -> bytes:
    """`raw` as UTF-8 JSON; raises Rejected `malformed` for what JSON cannot hold."""
    try:
        return json.dumps(raw, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise Rejected("malformed", f"should be JSON: {_cause(error)}") from None


def decode(raw: str | bytes | bytearray) -> object:
    """The JSON value in `raw`; raises Rejected `malformed` for what is no JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Rejected("malformed", f"should be JSON: {_cause(error)}") from None


def too_large(what: str, largest: int, size: int) -> Rejected:
    return Rejected("too_large", f"{what} should be at most {largest} bytes of JSON, not {size}")


def _decoded(raw: str | bytes | bytearray) -> object:
    _check_size(len(raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw))
    return decode(raw)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise too_large("an event", MAX_BYTES, size)


def _cause(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _json_type(value: object) -> str:
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "an array",
        str: "a string",
    }
    return names.get(type(value), type(value).__name__)


def _sentence(error: ValidationError) -> str:
    """`field: what would be right`, for each field that is wrong, without echoing what the producer sent."""
    problems: dict[str, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part) for part in item["loc"][:2])
        says = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        of_scalar = item["loc"][0] == "metadata" and len(item["loc"]) > 1 and item["loc"][-1] != "[key]"
        problems.setdefault(field, _SAYS.get(item["type"], _SAYS_OF_SCALAR if of_scalar else says))
    return "; ".join(f"{field}: {problem}" for field, problem in problems.items())
