"""What a Celery message must look like before Celery may touch it, and what Celery gets to see of it. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

# A task for later is held in a worker's memory and is delivered again after the visibility timeout (celery#3270). Our
# own retries wait half a minute; what a producer wants done tomorrow it should send tomorrow.
FURTHEST_ETA = timedelta(hours=1)
# Python reads JSON of almost 1,000 levels, and then fails to pickle it for a child: that costs the pool a place.
DEEPEST = 200
LONGEST_ID = 255
# Characters. What is longer is no name and no repr: it would only be sent on to everyone who watches the events.
LONGEST_TEXT = 8192

EMBEDDED = ("callbacks", "errbacks", "chain", "chord")
# Celery's request is one dictionary of all headers, whatever their names and types: a header "get" replaces a method,
# a number as "stamped_headers" ends the worker. So it sees what is named here: who, when, how often, and the trace.
SEEN = ("task", "id", "lang", "root_id", "parent_id", "retries", "argsrepr", "kwargsrepr", "origin", "redelivered")
# Events of a call, and characters of a name in one, that Flower shows.
SHOWN, LONGEST_NAME = 3, 64
TRACED = ("sentry-trace", "baggage", "traceparent", "tracestate")


def problem(headers: object, payload: object) -> str | None:
    """What is wrong with a message (of task protocol 2 or 1), or None. `payload` is the decoded body."""
    if not isinstance(headers, Mapping):
        return "the headers should be an object"
    if too_deep(payload):
        return f"the body should be nested at most {DEEPEST} levels deep"
    if "task" in headers:
        return _fields(headers) or _protocol_2(payload)
    if not isinstance(payload, Mapping):
        return 'there should be a header "task", with a body [args, kwargs, embed] (Celery task protocol 2)'
    return _fields(payload) or _arguments(payload.get("args", []), payload.get("kwargs", {})) or _embedded(payload)


def too_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterator[object]:
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return (inner for inner in values if isinstance(inner, Mapping | list | tuple))


def _protocol_2(payload: object) -> str | None:
    if not isinstance(payload, list) or len(payload) != 3:
        return "the body should be [args, kwargs, embed]"
    args, kwargs, embed = payload
    if embed is not None and not isinstance(embed, Mapping):
        return "embed, the third part of the body, should be an object"
    if embed and not embed.keys() <= set(EMBEDDED):
        return f"embed, the third part of the body, should hold nothing but {', '.join(EMBEDDED)}"
    return _arguments(args, kwargs) or _embedded(embed or {})


def _arguments(args: object, kwargs: object) -> str | None:
    if not isinstance(args, list):
        return "args should be an array"
    if not isinstance(kwargs, Mapping):
        return "kwargs should be an object"
    return None


def _embedded(embed: Mapping[str, Any]) -> str | None:
    wanted = [name for name in EMBEDDED if embed.get(name)]
    return f"{wanted[0]} should be empty: this worker runs nothing for others" if wanted else None


def _fields(fields: Mapping[str, Any]) -> str | None:
    for name in ("task", "id"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            return f"{name} should be text"
    if len(fields["id"]) > LONGEST_ID:
        return f"id should be at most {LONGEST_ID} characters"
    if not _is_timelimit(fields.get("timelimit")):
        return "timelimit should be [seconds or null, seconds or null]"
    if not _is_count(fields.get("retries")):
        return "retries should be a whole number of at most 1000"
    return _eta(fields.get("eta")) or _time("expires", fields.get("expires"))


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value <= 1000)


def _is_timelimit(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(part is None or (isinstance(part, int | float) and 0 < part < 1e6) for part in value)


def _eta(value: object) -> str | None:
    if (wrong := _time("eta", value)) is not None or value is None:
        return wrong
    if _ahead(str(value)) > FURTHEST_ETA:
        return f"eta should be at most {FURTHEST_ETA} ahead"
    return None


def _time(name: str, value: object) -> str | None:
    if value is None:
        return None
    try:
        datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return f"{name} should be an ISO 8601 time"
    return None


def _ahead(value: str) -> timedelta:
    """How far away a time is. A difference: moving one in year 1 or 9999 to another zone would overflow."""
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)


def expired(fields: Mapping[str, Any]) -> bool:
    """Whether Celery would drop this message unseen."""
    return fields.get("expires") is not None and _ahead(fields["expires"]) < timedelta(0)


def admitted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that Celery may see. Time limits are ours to set, and a time in the past means now."""
    seen = {name: fields[name] for name in (*SEEN, *TRACED) if _is_plain(fields.get(name))}
    inner = fields.get("headers")  # Sentry looks for the trace here too
    if isinstance(inner, Mapping):
        seen["headers"] = {name: inner[name] for name in TRACED if _is_plain(inner.get(name))}
    for name in ("eta", "expires"):
        if fields.get(name) is not None and (name == "expires" or _ahead(fields[name]) > timedelta(0)):
            seen[name] = datetime.fromisoformat(fields[name]).isoformat()
    return seen


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= LONGEST_TEXT)


def in_short(events: Sequence[Any]) -> str:
    """The events of a call for people who read Flower: who goes where, and nothing that a customer wrote."""
    told = [_in_short(event) for event in events[:SHOWN]]
    return f"({', '.join([*told, *([f'and {len(events) - SHOWN} more'] if len(events) > SHOWN else [])])})"


def _in_short(event: Any) -> str:
    if isinstance(event, str) and len(event) <= LONGEST_TEXT:  # as the intake passes it on
        with suppress(ValueError, RecursionError):
            event = json.loads(event)
    if not isinstance(event, dict):
        return "no event"
    conversation_id, destination, event_id = (
        str(event.get(name))[:LONGEST_NAME] for name in ("conversation_id", "destination", "event_id")
    )
    return f"{conversation_id} -> {destination} [{event_id}]"
