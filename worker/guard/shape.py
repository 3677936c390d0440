"""What a Celery message must look like before Celery may touch it. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

# A task for later is held in a worker's memory and is delivered again after the visibility timeout (celery#3270). Our
# own retries wait half a minute; what a producer wants done tomorrow it should send tomorrow.
FURTHEST_ETA = timedelta(hours=1)


def problem(headers: object, payload: object) -> str | None:
    """What is wrong with a message (of task protocol 2 or 1), or None. `payload` is the decoded body."""
    if not isinstance(headers, Mapping):
        return "the headers should be an object"
    if "task" in headers:
        return _fields(headers) or _protocol_2(payload)
    if not isinstance(payload, Mapping):
        return 'there should be a header "task", with a body [args, kwargs, embed] (Celery task protocol 2)'
    return _fields(payload) or _arguments(payload.get("args", []), payload.get("kwargs", {}))


def _protocol_2(payload: object) -> str | None:
    if not isinstance(payload, list) or len(payload) != 3:
        return "the body should be [args, kwargs, embed]"
    args, kwargs, embed = payload
    if embed is not None and not isinstance(embed, Mapping):
        return "embed, the third part of the body, should be an object"
    return _arguments(args, kwargs) or _embedded(embed or {})


def _arguments(args: object, kwargs: object) -> str | None:
    if not isinstance(args, list):
        return "args should be an array"
    if not isinstance(kwargs, Mapping):
        return "kwargs should be an object"
    return None


def _embedded(embed: Mapping[str, Any]) -> str | None:
    wanted = [name for name in ("callbacks", "errbacks", "chain", "chord") if embed.get(name)]
    return f"{wanted[0]} should be empty: this worker runs nothing for others" if wanted else None


def _fields(fields: Mapping[str, Any]) -> str | None:
    for name in ("task", "id"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            return f"{name} should be text"
    if not _is_timelimit(fields.get("timelimit")):
        return "timelimit should be [seconds or null, seconds or null]"
    if not isinstance(fields.get("retries") or 0, int) or not 0 <= (fields.get("retries") or 0) <= 1000:
        return "retries should be a whole number of at most 1000"
    return _eta(fields.get("eta")) or _time("expires", fields.get("expires"))


def _is_timelimit(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(part is None or (isinstance(part, int | float) and 0 < part < 1e6) for part in value)


def _eta(value: object) -> str | None:
    if (wrong := _time("eta", value)) is not None or value is None:
        return wrong
    eta = datetime.fromisoformat(str(value))
    eta = eta if eta.tzinfo else eta.replace(tzinfo=UTC)
    # Compared by subtraction from the eta's side: adding an hour to year 9999 would overflow.
    if eta - datetime.now(UTC) > FURTHEST_ETA:
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
