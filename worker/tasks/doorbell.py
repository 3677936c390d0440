"""Rows are the work, messages are doorbells: ringing a kind, and answering the door."""

from collections.abc import Iterable
from typing import Any

import structlog
from celery import Task, current_app
from kombu.exceptions import OperationalError

from config import sentry, tracing
from worker.db import counters
from worker.db.counters import Count
from worker.db.session import engine
from worker.effects import Effect, drain
from worker.errors import SideEffectDead, SideEffectParked, Transient
from worker.policy import POLICIES

log = structlog.get_logger(__name__)


# What ends a task and is no error: Celery tells it in one line, and Sentry is not told.
EXPECTED = (SideEffectParked,)


def queue_of(kind: str) -> str:
    return f"effects.{kind}"


def ring(kinds: Iterable[str], rung_by: str | None) -> list[str]:
    """Ask for each kind to be looked at; `rung_by` (an event_id, or a sweep) is for people who read Flower.

    Returns the kinds rung. A broker that cannot be reached is left to the sweep after the first try (2 s at most): the
    rows are due, and nothing is lost.
    """
    rung: list[str] = []
    try:
        with current_app.producer_or_acquire() as producer:
            for kind in kinds:
                # Transient: the row is the guarantee, and nobody waits for the broker to confirm a doorbell.
                options: dict[str, Any] = {"producer": producer, "retry": False, "delivery_mode": "transient"}
                options["headers"] = tracing.carrier()
                current_app.send_task(POLICIES[kind].task, (rung_by,), queue=queue_of(kind), **options)
                rung.append(kind)
    except (OperationalError, OSError) as error:
        log.warning("the broker cannot be reached: left to the sweep", action="ring_dropped", error=str(error))
        counters.tell(engine(), Count("publish_failures", ("ring",)))
    return rung


def answer(task: Task[Any, Any], effect: Effect, rung_by: str | None) -> dict[str, Any]:
    """Do all that is due of this kind, then end as Flower should show it: SUCCESS, RETRY or FAILURE.

    The row's due time is the guarantee; the retry only rings at that moment, and when it cannot, the sweep does.
    """
    structlog.contextvars.bind_contextvars(rung_by=rung_by)
    try:
        with tracing.span(task.name, task.request.get(tracing.TRACEPARENT), kind=effect.kind):
            settled = drain(engine(), effect)
    except Transient as error:
        log.warning("the database says no for now: left to the sweep", action="effect_postponed", error=str(error))
        return {"postponed": str(error)}
    if settled.more:
        ring([effect.kind], "more")
    if settled.dead:
        ids = [conversation_id for failure in settled.dead for conversation_id in failure.conversation_ids]
        sentry.tag(ids[0], rung_by)
        raise SideEffectDead(
            f"{effect.kind} of {len(ids)} conversations is dead, {ids[0]} first: {settled.dead[0].error}"
        )
    quick = len(effect.policy.quick)
    if settled.retry_in is not None and task.request.retries < quick:
        raise task.retry(countdown=settled.retry_in, max_retries=quick)
    if settled.parked:
        raise SideEffectParked(f"{effect.kind} of {settled.parked} conversations waits for the sweep")
    counts = {"written": settled.written, "given_up": settled.given_up}
    return {name: count for name, count in counts.items() if count}
