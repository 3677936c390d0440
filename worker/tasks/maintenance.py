"""What beat asks for: ring what is due, prune what is old."""

from typing import Any

import structlog
from celery import shared_task

from config.settings import settings
from worker.db import history, side_effects
from worker.db.session import engine
from worker.errors import Transient
from worker.policy import POLICIES
from worker.tasks.doorbell import ring

log = structlog.get_logger(__name__)


@shared_task(name="retry_side_effects")
def retry_side_effects() -> dict[str, Any]:
    """Ring the kinds that have due rows. It claims nothing, so any number of sweeps at once is harmless."""
    try:
        kinds = side_effects.due(engine(), tuple(POLICIES))
    except Transient as error:
        log.warning(
            "the database says no for now: the next sweep looks again", action="sweep_skipped", error=str(error)
        )
        return {"skipped": str(error)}
    return {"rung": ring(kinds, "sweep")} if kinds else {}


@shared_task(name="prune_history")
def prune_history() -> dict[str, Any]:
    """Delete redirects older than REDIRECT_HISTORY_DAYS, which is also how long a duplicate is recognised."""
    try:
        pruned = history.prune(engine(), settings().history_days)
    except Transient as error:
        log.warning("pruning waits for the next round", action="prune_skipped", error=str(error))
        return {"skipped": str(error)}
    log.info("history pruned", action="history_pruned", redirects=pruned)
    return {"pruned": pruned}
