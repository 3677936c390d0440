"""Running one kind of side effect: read the present states, write the copies, settle; again until nothing is due."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy import Connection, Engine

from config.hiding import hide
from config.settings import JITTER
from worker.db import backlog, side_effects
from worker.db.side_effects import Claimed, Failure
from worker.errors import Permanent
from worker.failpoints import reach
from worker.policy import POLICIES, GiveUp, Policy, RetryIn, next_step
from worker.redirects import State

log = structlog.get_logger(__name__)

# Rows per round: up to 20,000 conversations, what one pipeline or one statement still carries with ease.
ROUND = 100
# Seconds: then the task ends and rings again, so that it never comes near its time limit.
BUDGET = 5.0
# Conversations per round whose story is told one by one; a larger round is told in one line.
TOLD_ONE_BY_ONE = 20


@dataclass(frozen=True)
class Effect:
    """One kind of copy. `write` brings the copies of these states up to date, behind their version fence.

    It returns the error of each conversation that failed (empty: all are written), or raises when all did.
    Permanent means that trying again cannot help; anything else is tried again.

    `drifted` finds the states whose copy does not show them: their ids, with the version that is shown instead (None:
    none that can be read). None in its place where there is no copy to look at. It raises as `write` does.
    """

    kind: str
    write: Callable[[Sequence[State]], Mapping[str, Exception]]
    drifted: Callable[[Sequence[State]], Mapping[str, int | None]] | None = None

    @property
    def policy(self) -> Policy:
        return POLICIES[self.kind]


@dataclass
class Settled:
    """What one run did: conversations written, parked for the sweep and given up, seconds until the soonest quick
    retry, what died, and whether more is due.
    """

    written: int = 0
    parked: int = 0
    given_up: int = 0
    retry_in: float | None = None
    dead: list[Failure] = field(default_factory=list)
    more: bool = False


@dataclass(frozen=True)
class _Round:
    """One claim: which conversations failed and why, and whether the whole kind is out."""

    rows: Sequence[Claimed]
    states: Sequence[State]
    errors: Mapping[str, Exception]
    out: bool
    started: float


def drain(engine: Engine, effect: Effect) -> Settled:
    """Write the copies of all rows of this kind that are due.

    Returns at once when another process is at it: that one looks again before it leaves. Raises Transient when the
    database says no for now.
    """
    settled = Settled()
    deadline = time.monotonic() + BUDGET
    missed = 0
    while (found := _once(engine, effect, settled)) is not None and side_effects.due(engine, [effect.kind]):
        missed = 0 if found else missed + 1
        if missed == 2:
            break  # due, and twice not to be had: another transaction holds it
        if time.monotonic() > deadline:
            settled.more = True
            break
    return settled


def _once(engine: Engine, effect: Effect, settled: Settled) -> int | None:
    """How many rows were due; None when it is not worth looking again, now that the kind is free for others."""
    with side_effects.desk(engine) as connection:
        claim = side_effects.claim(connection, effect.kind, effect.policy, limit=ROUND, jitter=JITTER)
        if claim is None:
            return None
        if claim.rows:
            done = _attempt(effect, claim.rows, claim.states)
            _settle(connection, effect, done, settled)
            if done.out:
                return None  # what is left would fail too: the schedule and the sweep come back to it
        return len(claim.rows)


def _attempt(effect: Effect, rows: Sequence[Claimed], states: Sequence[State]) -> _Round:
    started = time.monotonic()
    if any(_used_up(effect, row) for row in rows):  # then it is alone
        lost = Permanent(side_effects.LOST)
        return _Round(rows, states, {state.conversation_id: lost for state in states}, False, started)
    try:
        errors, out = (_write(effect, states) if states else {}), False
    except Exception as error:  # noqa: BLE001 - whatever a store raises is a failed attempt, kept in the row
        errors, out = {state.conversation_id: error for state in states}, True
    reach("after_write_before_settle")
    return _Round(rows, states, errors, out, started)


def _write(effect: Effect, states: Sequence[State]) -> Mapping[str, Exception]:
    """Write the group; when it is refused as a whole for good, write one by one, so that one item fails alone."""
    try:
        return effect.write(states)
    except Permanent as error:
        if len(states) == 1:
            return {states[0].conversation_id: error}
        return {c: error for state in states for c, error in _write(effect, [state]).items()}


def _settle(connection: Connection, effect: Effect, done: _Round, settled: Settled) -> None:
    failures = [failure for row in done.rows for failure in _failures(effect, row, done.errors)]
    failing = {failure.row.id for failure in failures}
    side_effects.settle(connection, [row.id for row in done.rows if row.id not in failing], failures)
    written = [state for state in done.states if state.conversation_id not in done.errors]
    if written:
        side_effects.overtake(connection, effect.kind, [state.conversation_id for state in written])
    kept = {conversation_id for failure in failures for conversation_id in failure.conversation_ids}
    given_up = sorted(set(done.errors) - kept)
    settled.written += len(written)
    settled.given_up += len(given_up)
    settled.dead += [failure for failure in failures if failure.dead]
    _note_retries(effect, failures, settled, time.monotonic() - done.started)
    _tell_failures(effect, failures, given_up)
    _tell_written(connection, effect, written)


def _failures(effect: Effect, row: Claimed, errors: Mapping[str, Exception]) -> list[Failure]:
    """The parts of `row` that stay: one for what is tried again, one for what is dead."""
    last = isinstance(next_step(effect.policy, row.failures), GiveUp)
    parts: dict[bool, list[str]] = defaultdict(list)
    for conversation_id in row.conversation_ids:
        if (error := errors.get(conversation_id)) is not None:
            parts[last or isinstance(error, Permanent)].append(conversation_id)
    if last and effect.policy.given_up == "done":
        return []
    return [Failure(row, ids, _reason(errors[ids[0]]), dead) for dead, ids in parts.items()]


def _used_up(effect: Effect, row: Claimed) -> bool:
    """Whether the last attempt that its policy allows killed its process: do not try again."""
    return row.failures > len(effect.policy.steps) + 1


def _reason(error: Exception) -> str:
    """For the row, the log and Flower. A store is the host's: its errors may quote the address it could not reach."""
    return hide(f"{type(error).__name__}: {error}")


def _note_retries(effect: Effect, failures: Sequence[Failure], settled: Settled, elapsed: float) -> None:
    for failure in failures:
        if failure.dead:
            continue
        if not isinstance(next_step(effect.policy, failure.row.failures), RetryIn):
            settled.parked += len(failure.conversation_ids)
        else:
            wait = max(0.0, failure.row.due_in - elapsed)
            settled.retry_in = wait if settled.retry_in is None else min(settled.retry_in, wait)


def _tell_failures(effect: Effect, failures: Sequence[Failure], given_up: Sequence[str]) -> None:
    """ERROR means that nobody will retry."""
    for failure in failures:
        say = log.error if failure.dead else log.warning
        action = "effect_dead" if failure.dead else "effect_retry"
        fate = "is dead: a person must look" if failure.dead else "failed, will be tried again"
        due_in = None if failure.dead else round(failure.row.due_in, 1)
        ids = failure.conversation_ids[:TOLD_ONE_BY_ONE]
        keys = {"conversation_ids": ids, "error": failure.error, "due_in": due_in}
        say(f"{effect.kind} {fate}", action=action, kind=effect.kind, **keys)
    if given_up:
        sentence = f"{effect.kind} given up: it needs no repair"
        log.warning(sentence, action="effect_given_up", kind=effect.kind, conversation_ids=given_up[:TOLD_ONE_BY_ONE])


def _tell_written(connection: Connection, effect: Effect, written: Sequence[State]) -> None:
    if len(written) > TOLD_ONE_BY_ONE:
        log.info(f"{effect.kind} written", action="effect_written", kind=effect.kind, conversations=len(written))
        return
    for state in written:
        log.info(f"{effect.kind} written", action="effect_written", kind=effect.kind, **_keys(state))
    _tell_agreement(connection, written)


def _tell_agreement(connection: Connection, written: Sequence[State]) -> None:
    behind = backlog.unfinished(connection, [state.conversation_id for state in written]) if written else set()
    for state in written:
        if state.conversation_id not in behind:
            log.info(
                "redirect complete: all copies agree",
                action="redirect_complete",
                **_keys(state),
                status=state.status,
                destination=state.destination,
                ai_enabled=state.ai_enabled,
            )


def _keys(state: State) -> dict[str, object]:
    return {"conversation_id": state.conversation_id, "event_id": state.event_id, "version": state.version}
