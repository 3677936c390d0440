"""How `/openapi.json` describes `POST /events`. The body is read by hand, so it is described by hand, too."""

from typing import Any

from pydantic import BaseModel

from worker.events import Actor, Event
from worker.messages import LARGEST_BODY, MOST_EVENTS, TYPE


class Refusal(BaseModel):
    """An event that can never be applied. It is kept in `rejected_events` with this reason."""

    position: int
    """Its place in the array that was sent, from 0."""
    event_id: str | None
    code: str
    error: str


class Answer(BaseModel):
    """What became of the events."""

    accepted: list[str]
    """The `event_id` of each event that is stored, in the order of the request."""
    rejected: list[Refusal]


class NothingAccepted(Answer):
    """The same, where all were rejected."""

    detail: str


class Problem(BaseModel):
    """What would be right."""

    detail: str


def _event() -> dict[str, Any]:
    schema = Event.model_json_schema()
    schema.pop("$defs")  # a reference into it would point nowhere in the page as a whole
    actor = Actor.model_json_schema()
    schema["properties"]["actor"] = {"anyOf": [actor, {"type": "null"}], "default": None}
    return schema


_EXAMPLE = {
    "event_id": "wf42-7f3c",
    "conversation_id": "abc123",
    "destination": "billing",
    "occurred_at": "2026-11-22T10:00:00.120Z",
}
_EVENT = _event()
_CLOUD = {
    "type": "object",
    "title": "CloudEvent",
    "description": "`id` is the event_id, `subject` the conversation_id, `time` is occurred_at; `data` has the rest.",
    "required": ["specversion", "id", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string"},
        "source": {"type": "string"},
        "type": {"const": TYPE},
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "data": {"type": "object"},
    },
}
_CLOUD_EXAMPLE = {
    "specversion": "1.0",
    "id": "wf42-7f3c",
    "source": "workflow/42",
    "type": TYPE,
    "subject": "abc123",
    "data": {"destination": "billing"},
}


def _many(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1, "maxItems": MOST_EVENTS}


CONTENT: dict[str, Any] = {
    "application/json": {"schema": {"anyOf": [_EVENT, _many(_EVENT)]}, "example": _EXAMPLE},
    "application/cloudevents+json": {"schema": _CLOUD, "example": _CLOUD_EXAMPLE},
    "application/cloudevents-batch+json": {"schema": _many(_CLOUD), "example": [_CLOUD_EXAMPLE]},
}

_PROBLEMS = {
    400: "Called by a name that is not in REDIRECT_HOSTS, or the connection ended before the body",
    401: "No token, or a wrong one. The body was not read",
    403: "The token may not send, or not for this owner or conversation. Nothing of the request is kept",
    408: "The body did not arrive in time",
    413: f"The body has more than {LARGEST_BODY} bytes",
    415: "A Content-Type that is none of these, or a Content-Encoding",
    503: "The database did not answer in time: the events may be stored or not. Send them again after `Retry-After`",
}

DESCRIPTION: dict[str, Any] = {
    "openapi_extra": {"requestBody": {"required": True, "content": CONTENT}},
    "responses": {
        202: {"model": Answer, "description": "Stored. At least one event is accepted"},
        422: {"model": NothingAccepted, "description": "Stored, and none is accepted"},
        **{status: {"model": Problem, "description": text} for status, text in _PROBLEMS.items()},
    },
}
