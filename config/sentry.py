"""Sentry in every process kind, when SENTRY_DSN is set: what and where, never what a customer wrote."""

import time
from importlib.metadata import version
from math import ceil
from typing import TYPE_CHECKING

import sentry_sdk
from sentry_sdk.crons import MonitorStatus, capture_checkin
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.types import DataCollectionUserOptions, Event, Hint
from sentry_sdk.utils import get_default_release

from config.hiding import hide
from config.settings import settings

if TYPE_CHECKING:
    from sentry_sdk._types import MonitorConfig

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
MINUTE = 60.0
_silent_until: dict[str, float] = {}
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
        # SENTRY_RELEASE or the commit, if there is one; the environment is the SDK's own SENTRY_ENVIRONMENT.
        release=get_default_release() or f"redirect-worker@{version('redirect-worker')}",
        integrations=[CeleryIntegration(monitor_beat_tasks=False)],
        data_collection=NOTHING,
        max_breadcrumbs=0,
        before_send=without_text,
    )
    sentry_sdk.set_tag("process", process)


def check_in(monitor: str, every: float, ok: bool) -> None:
    """Tell Sentry Crons that what beat sends `every` so many seconds has run, and how; once a minute at most.

    Not by the SDK's own integration: it knows no interval below a minute, and its headers do not pass our gate.
    https://docs.sentry.io/product/crons/getting-started/http/
    """
    if not sentry_sdk.get_client().is_active() or time.monotonic() < _silent_until.get(monitor, 0.0):
        return
    _silent_until[monitor] = time.monotonic() + MINUTE
    config: MonitorConfig = {
        "schedule": {"type": "interval", "value": max(1, ceil(every / MINUTE)), "unit": "minute"},
        "checkin_margin": 5,
        "failure_issue_threshold": 3,
        "timezone": "UTC",
    }
    capture_checkin(monitor, status=MonitorStatus.OK if ok else MonitorStatus.ERROR, monitor_config=config)


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
        event["logentry"] = {"message": hide(str(said.get("event")))}
        event["tags"] = {**dict(event.get("tags") or {}), **{name: str(said[name]) for name in TAGS if name in said}}
    elif entry := event.get("logentry"):
        event["logentry"] = {"message": _first_line(entry.get("formatted") or entry.get("message"))}
    for value in (event.get("exception") or {}).get("values", ()):
        value["value"] = _first_line(value.get("value"))
    event.pop("extra", None)  # the command line (Flower takes passwords there), and whatever a library adds
    return event


def _first_line(text: object) -> str:
    return hide(str(text or "").strip().partition("\n")[0])[:LONGEST]
