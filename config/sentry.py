"""Sentry in every process kind, when SENTRY_DSN is set: what and where, never what a customer wrote."""

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.types import Event, Hint

from config.settings import settings


def start(process: str) -> None:
    """Initialise Sentry for this process kind (`worker`, `beat`, `web`). Before a fork, or its children stay mute."""
    dsn = settings().sentry_dsn
    if not dsn:
        return
    sentry_sdk.init(
        dsn=dsn,
        integrations=[CeleryIntegration(monitor_beat_tasks=False)],
        send_default_pii=False,
        # Variables, arguments and breadcrumbs hold reasons and metadata: the words of customers.
        include_local_variables=False,
        max_breadcrumbs=0,
        before_send=without_text,
    )
    sentry_sdk.set_tag("process", process)


def tag(conversation_id: object, event_id: object) -> None:
    """Name the redirect that this task is about."""
    sentry_sdk.set_tag("conversation_id", str(conversation_id))
    sentry_sdk.set_tag("event_id", str(event_id))


def without_text(event: Event, _hint: Hint) -> Event | None:
    """The event without task arguments."""
    extra = event.get("extra") or {}
    job = extra.get("celery-job")
    if isinstance(job, dict):
        extra["celery-job"] = {"task_name": job.get("task_name")}
    return event
