"""What beat asks for: ring what is due, compare copies with the truth, prune what is old."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import structlog
from celery import current_app, shared_task
from kombu.exceptions import OperationalError
from sqlalchemy import Engine

from config import sentry
from config.celery import PRUNE_INTERVAL
from config.settings import settings
from worker import redis_client
from worker.db import counters, history, side_effects
from worker.db.counters import Count
from worker.db.session import engine
from worker.errors import Permanent, Transient
from worker.failpoints import reach
from worker.hosts import host
from worker.policy import POLICIES
from worker.reconcile import Reconciler
from worker.tasks.doorbell import ring

log = structlog.get_logger(__name__)

# The key in Redis by which it is seen that Redis has lost its data.
MARKER = "redirect_worker_marker"
# Seconds. What this process has not told of its sweeps yet, and when it last did.
TOLD_EVERY = 10.0
_sweeps: list[float] = []
_told = [float("-inf")]


@shared_task(name="retry_side_effects")
def retry_side_effects() -> dict[str, Any]:
    """Ring the kinds that have due rows. It claims nothing, so any number of sweeps at once is harmless."""
    try:
        kinds = side_effects.due(engine(), tuple(POLICIES))
    except Transient as error:
        log.warning(
            "the database says no for now: the next sweep looks again", action="sweep_skipped", error=str(error)
        )
        sentry.check_in("retry_side_effects", settings().sweep_interval, ok=False)
        return {"skipped": str(error)}
    sentry.check_in("retry_side_effects", settings().sweep_interval, ok=True)
    _count_sweep()
    if _of_the_host(host().tend):
        kinds = list(POLICIES)
    reach("mid_sweep")
    return {"rung": ring(kinds, "sweep")} if kinds else {}


def _of_the_host(ask: Callable[[Engine], Collection[str]] | None) -> Collection[str]:
    """What the host looks at by itself. Whatever becomes of it, the sweep goes on."""
    try:
        return ask(engine()) if ask else ()
    except (Transient, Permanent) as error:
        log.warning("the host's rows are looked at the next time", action="host_skipped", error=str(error))
        return ()


def _count_sweep() -> None:
    """Told every few seconds, not every time: idle means idle."""
    _sweeps.append(time.monotonic())
    if _sweeps[-1] - _told[0] >= TOLD_EVERY:
        counters.tell(engine(), Count("sweeps", (), len(_sweeps)))
        _told[0] = _sweeps[-1]
        _sweeps.clear()


@shared_task(name="reconcile_conversations")
def reconcile_conversations() -> dict[str, Any]:
    """Compare some copies with the truth, and file what drifted. Until all is compared that must be, ask again."""
    reconciler = Reconciler(
        engine(),
        host().effects,
        lambda number: redis_client.exchange(MARKER, number),
        lambda kinds: ring(kinds, "reconcile"),
    )
    try:
        turn = reconciler.turn()
    except Transient as error:
        log.warning("comparing waits for the next turn", action="reconcile_skipped", error=str(error))
        sentry.check_in("reconcile_conversations", settings().reconcile_interval, ok=False)
        return {"skipped": str(error)}
    sentry.check_in("reconcile_conversations", settings().reconcile_interval, ok=True)
    if turn is None:
        return {"skipped": "another process compares"}
    if _of_the_host(host().noticed):
        ring(POLICIES, "noticed")
    if turn.more:
        _again("reconcile_conversations")
    found = {"compared": turn.compared, "drifted": dict(turn.drifted), "repaired": dict(turn.repaired)}
    return {name: value for name, value in found.items() if value}


def _again(task: str) -> None:
    with suppress(OperationalError, OSError):  # beat asks soon
        current_app.send_task(task, queue="maintenance", retry=False)


@shared_task(name="prune_history")
def prune_history() -> dict[str, Any]:
    """Delete redirects older than REDIRECT_HISTORY_DAYS, which is also how long a duplicate is recognised."""
    try:
        pruned, more = history.prune(engine(), settings().history_days)
    except Transient as error:
        log.warning("pruning waits for the next round", action="prune_skipped", error=str(error))
        sentry.check_in("prune_history", PRUNE_INTERVAL, ok=False)
        return {"skipped": str(error)}
    sentry.check_in("prune_history", PRUNE_INTERVAL, ok=True)
    log.info("history pruned", action="history_pruned", redirects=pruned)
    if more:
        _again("prune_history")
    return {"pruned": pruned}
