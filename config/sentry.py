"""Sentry in every process kind, when SENTRY_DSN is set: what and where, never what a customer wrote."""

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.types import DataCollectionUserOptions, Event, Hint

from config.settings import settings

# Arguments, variables, queries and requests hold reasons and metadata: the words of customers.
NOTHING: DataCollectionUserOptions = {
    "user_info": False,
    "cookies": {"mode": "off"},
    "http_headers": {"request": {"mode": "off"}},
    "http_bodies": [],
    "url_query_params": {"mode": "off"},
    "database_query_data": False,
    "queues": False,
    "stack_frame_variables": False,
}
# The keys of a log line that are worth a search.
TAGS = ("action", "kind", "conversation_id", "event_id")
LONGEST = 300


def start(process: str) -> None:
    """Initialise Sentry for a process kind (`worker`, `beat`, `web`, `flower`), before a fork: children inherit it."""
    dsn = settings().sentry_dsn
    if not dsn:
        return
    sentry_sdk.init(
        dsn=dsn,
        integrations=[CeleryIntegration(monitor_beat_tasks=False)],
        data_collection=NOTHING,
        max_breadcrumbs=0,
        before_send=without_text,
    )
    sentry_sdk.set_tag("process", process)


def tag(conversation_id: object, event_id: object) -> None:
    """Name the redirect that this task is about."""
    sentry_sdk.set_tag("conversation_id", str(conversation_id))
    sentry_sdk.set_tag("event_id", str(event_id))


def without_text(event: Event, hint: Hint) -> Event | None:
    """The event with the first line of each message: what follows in a database's error is the row it was about."""
    said = getattr(hint.get("log_record"), "msg", None)
    if isinstance(said, dict):  # a line of ours: its sentence, which is the same each time, so that Sentry groups it
        if said.get("action") == "effect_dead":
            return None  # the task fails next, and says it with the redirect's ids
        event["logentry"] = {"message": str(said.get("event"))}
        event["tags"] = {**dict(event.get("tags") or {}), **{name: str(said[name]) for name in TAGS if name in said}}
    elif entry := event.get("logentry"):
        event["logentry"] = {"message": _first_line(entry.get("formatted") or entry.get("message"))}
    for value in (event.get("exception") or {}).get("values", ()):
        value["value"] = _first_line(value.get("value"))
    return event


def _first_line(text: object) -> str:
    return str(text or "").strip().partition("\n")[0][:LONGEST]
