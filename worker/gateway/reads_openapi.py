"""How `/openapi.json` describes the reads."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from worker.gateway.events_openapi import Problem


class WrongParameter(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class WrongParameters(BaseModel):
    detail: list[WrongParameter]


_PROBLEMS: dict[int, str] = {
    400: "Called by a name that is not in REDIRECT_HOSTS",
    401: "No token, or one that is not valid",
    403: "The token does not say that its bearer may",
    404: "Not known, or not shown by this token",
    422: "A parameter is not what it should be",
    503: "The database does not answer: try again after `Retry-After`",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    # A parameter may be found wrong by FastAPI, or by us.
    models = {422: WrongParameters | Problem}
    return {status: {"description": _PROBLEMS[status], "model": models.get(status, Problem)} for status in statuses}


PROBLEMS = problems(400, 401, 503)


class Destination(BaseModel):
    value: str
    label: str


class Actor(BaseModel):
    type: str
    id: str | None = None


class State(BaseModel):
    """Who has a conversation now."""

    conversation_id: str
    owner_id: str | None
    status: Literal["active", "support_active"]
    ai_enabled: bool
    destination: str
    version: int
    event_id: str
    occurred_at: datetime
    updated_at: datetime


class InInbox(State):
    """A conversation, with what put it where it is, and the kinds of its copies that are not there yet."""

    since: datetime | None
    reason: str | None
    source: str | None
    actor: Actor | None
    behind: list[str]
    dead: list[str]


class Inbox(BaseModel):
    conversations: list[InInbox]
    next: str | None


class Redirect(BaseModel):
    """One event and what became of it. Of one that was refused, only what could be read."""

    event_id: str | None
    conversation_id: str
    destination: str | None
    outcome: Literal["applied", "noop", "superseded", "rejected"]
    code: str | None
    error: str | None = None
    version: int | None
    previous_status: str | None
    status: str | None
    owner_id: str | None
    source: str | None
    actor: Actor | None
    reason: str | None
    metadata: dict[str, JsonValue] | None
    occurred_at: datetime | None
    received_at: datetime


class Timeline(BaseModel):
    redirects: list[Redirect]
    next: str | None


class SideEffect(BaseModel):
    kind: str
    state: Literal["waiting", "dead"]
    failures: int
    due_at: datetime
    last_error: str | None
    created_at: datetime


class Copy(BaseModel):
    """How one copy stands: `since` when it is behind, and when it is tried again (`due_at`)."""

    status: Literal["up_to_date", "behind", "retrying", "dead"]
    since: datetime | None = None
    due_at: datetime | None = None
    failures: int = 0
    error: str | None = None


class Conversation(BaseModel):
    state: State
    copies: dict[str, Copy]
    record: dict[str, Any] | None
    cache: JsonValue
    cache_status: Literal["present", "absent", "unreadable", "unreachable"]
    side_effects: list[SideEffect]
    redirects: list[Redirect]


class Rung(BaseModel):
    """The kinds of copies that are tried now."""

    rung: list[str]


class Minute(BaseModel):
    minute: datetime
    counts: dict[str, int]


class Activity(BaseModel):
    minutes: list[Minute]
    behind: dict[str, int]
    dead: dict[str, int]
    oldest_waiting: datetime | None
