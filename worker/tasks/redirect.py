"""redirect_conversation: apply the events, commit, ring."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import orjson
import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, current_task, shared_task
from celery.exceptions import Reject

from config import sentry, tracing
from config.settings import JITTER, settings
from worker.db import side_effects
from worker.db.ledger import Accepted
from worker.db.session import engine
from worker.effects import TOLD_ONE_BY_ONE
from worker.errors import Transient
from worker.failpoints import reach
from worker.hosts import ledger
from worker.policy import POLICIES
from worker.redirects import Outcome
from worker.tasks.doorbell import ring

log = structlog.get_logger(__name__)

# Seconds between tries while the database says no. Then the message goes back to its queue, where it is safe.
PATIENCE = (0.1, 0.3, 1.0, 2.0, 4.0)


class RedirectTask(Task[Any, Any]):
    """A task that loses no message."""

    # What fails, hangs or kills its process is tried again, then kept in rejected_events: never acknowledged away.
    Request = "worker.guard.request:KeptRequest"
    # Those that wait for a process run together, in one transaction.
    Strategy = "worker.guard.grouping:grouped"


@shared_task(base=RedirectTask, name="redirect_conversation")
def redirect_conversation(*events: Any, **fields: Any) -> list[dict[str, Any]]:
    """Apply `events` (contract, section 3.1), in one transaction; returns an outcome for each (3.2).

    Fields given as keywords are one event too.
    """
    raws = [*events, fields] if fields else list(events)
    with tracing.span("redirect_conversation", _trace(raws), events=len(raws)):
        return _redirect(raws)


def _trace(raws: Iterable[object]) -> object:
    """That of the message, else of the first event that names one: over HTTP and SQL it came with the event."""
    if not tracing.on():
        return None
    return current_task.request.get(tracing.TRACEPARENT) or next(filter(None, map(_named_trace, raws)), None)


def _named_trace(raw: object) -> object:
    with suppress(ValueError, RecursionError):
        fields = orjson.loads(raw) if isinstance(raw, str) else raw
        return fields.get(tracing.TRACEPARENT) if isinstance(fields, dict) else None
    return None


def _redirect(raws: list[Any]) -> list[dict[str, Any]]:
    _announce(raws)
    accepted = _accept(raws)
    reach("after_commit_before_dispatch")
    _ring(accepted)
    for outcome in _worth_a_line(accepted.outcomes):
        _tell(outcome)
    log.info("redirects committed", action="redirects_committed", **Counter(o.outcome for o in accepted.outcomes))
    reach("after_dispatch_before_ack")
    return [outcome.as_dict() for outcome in accepted.outcomes]


def _accept(raws: Sequence[object]) -> Accepted:
    try:
        for wait in PATIENCE:
            try:
                return ledger().accept(raws)
            except Transient as error:
                log.warning("the database says no for now", action="redirect_postponed", error=str(error), wait=wait)
                time.sleep(wait * (1 + JITTER * random.random()))  # noqa: S311 - chance, not a secret
        return ledger().accept(raws)
    except (Transient, SoftTimeLimitExceeded) as error:
        raise Reject(str(error), requeue=True) from error


def _ring(accepted: Accepted) -> None:
    if not accepted.filed:
        return
    try:
        ring(
            _unheard(accepted), next(outcome.event_id for outcome in accepted.outcomes if outcome.outcome != "rejected")
        )
    except Exception as error:  # noqa: BLE001 - the commit stands: whatever the broker says, the sweep rings
        log.warning("the broker refuses: left to the sweep", action="ring_dropped", error=str(error))


def _unheard(accepted: Accepted) -> Iterable[str]:
    """The kinds to ring. One event by itself is a quiet moment: there the question costs more than a ring too many."""
    if len(accepted.outcomes) > 1:
        with suppress(Transient):
            return side_effects.unheard(engine(), tuple(POLICIES), accepted.filed, settings().sweep_interval)
    return POLICIES


def _announce(raws: Sequence[object]) -> None:
    """The line before: who asked for what, as far as the event can be read."""
    named = [raw for raw in raws if isinstance(raw, dict)]
    if len(raws) == 1 and named:
        sentry.tag(named[0].get("conversation_id"), named[0].get("event_id"))
    if len(raws) > TOLD_ONE_BY_ONE or len(named) < len(raws):
        log.info("redirects received", action="redirect_received", events=len(raws))
        return
    for raw in named:
        asked = {name: raw.get(name) for name in ("event_id", "conversation_id", "destination")}
        log.info("redirect received", action="redirect_received", **asked)


def _worth_a_line(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Of many only those that somebody should look at."""
    if len(outcomes) <= TOLD_ONE_BY_ONE:
        return outcomes
    return [outcome for outcome in outcomes if outcome.outcome == "rejected"][:TOLD_ONE_BY_ONE]


def _tell(outcome: Outcome) -> None:
    keys = {"event_id": outcome.event_id, "conversation_id": outcome.conversation_id, "code": outcome.code}
    if outcome.outcome == "rejected":
        log.warning("redirect rejected: kept in rejected_events", action="redirect_rejected", **keys)
        return
    log.info(
        f"redirect {outcome.outcome}: {outcome.previous_status} -> {outcome.status}",
        action=f"redirect_{outcome.outcome}",
        **keys,
        destination=outcome.destination,
        version=outcome.version,
        ai_enabled=outcome.ai_enabled,
    )
