"""Comparing copies with the truth: what moved lately, all others in rotation, and everything at once after Redis has
lost its data. What drifted is filed as a side effect, and heals as any other.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from worker.db import counters, reconciliation
from worker.db.counters import Count
from worker.db.reconciliation import Progress, Slice
from worker.effects import Effect
from worker.errors import Transient
from worker.policy import POLICIES

log = structlog.get_logger(__name__)

Drift = Mapping[str, Mapping[str, int | None]]
"""Kind -> conversation -> the version that its copy shows, None where there is none."""

# Conversations compared at once.
SLICE = 1000
# Seconds for one turn where everything is compared: it holds one process of the worker, and redirects want it too.
BUDGET = 1.0
# Of what moved before, the rotation takes care.
RECENT = timedelta(minutes=10)


@dataclass
class Turn:
    """What one turn did: conversations compared, copies that had drifted by kind, copies found repaired by kind, and
    whether all has to be compared and more is to do.
    """

    compared: int = 0
    drifted: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    more: bool = False


@dataclass(frozen=True)
class Reconciler:
    """`exchange` leaves a number in Redis and returns the one that was there, or raises Transient; `ring` asks for
    kinds to be looked at.
    """

    engine: Engine
    effects: Sequence[Effect]
    exchange: Callable[[int], int | None]
    ring: Callable[[list[str]], object]

    def turn(self) -> Turn | None:
        """Compare some copies, and file what drifted; None while somebody else does. Raises Transient."""
        with reconciliation.alone(self.engine) as connection:
            if connection is None:
                return None
            progress, turn = reconciliation.load(connection), Turn()
            self._note_repaired(connection, progress, turn)
            self._note_loss(connection, progress)
            try:
                if not reconciliation.busy(connection):
                    self._compare(connection, progress, turn)
            finally:
                reconciliation.save(connection, progress)
                counters.add(connection, _counts(turn))
            return turn

    def _note_repaired(self, connection: Connection, progress: Progress, turn: Turn) -> None:
        """What was filed and is gone, is written."""
        left = reconciliation.left(connection, progress.pending)
        for kind, copies in (filed for id_, filed in progress.pending.items() if id_ not in left):
            turn.repaired[kind] += copies
        progress.pending = {id_: filed for id_, filed in progress.pending.items() if id_ in left}

    def _note_loss(self, connection: Connection, progress: Progress) -> None:
        """A Redis that does not know what we told it last has lost it, or is an older self: then nothing it holds is
        known to be true. The note is taken before Redis is told, so that no crash forgets the loss.
        """
        try:
            there = self.exchange(progress.marker + 1)
        except Transient:
            return  # its copies are behind, or will be compared when it is back
        if there not in (progress.marker, progress.marker + 1):
            if progress.marker:
                log.warning("Redis has lost its data: all is compared", action="redis_lost_data", marker=there)
            progress.whole, progress.after = True, ""
        progress.marker += 1
        reconciliation.save(connection, progress)

    def _compare(self, connection: Connection, progress: Progress, turn: Turn) -> None:
        if progress.whole:
            self._compare_all(connection, progress, turn)
            return
        since = max(progress.recent, progress.clock - RECENT)
        lately, progress.recent = reconciliation.moved(connection, since, SLICE)
        self._repair(connection, lately, progress, turn)
        self._compare_next(connection, progress, turn)

    def _compare_all(self, connection: Connection, progress: Progress, turn: Turn) -> None:
        """Slice by slice, each repaired before the next is compared: so a live redirect waits for one slice at most."""
        deadline = time.monotonic() + BUDGET
        while progress.whole and time.monotonic() < deadline:
            if progress.pending:
                time.sleep(0.02)
                self._note_repaired(connection, progress, turn)
            else:
                progress.whole = self._compare_next(connection, progress, turn)
        turn.more = progress.whole

    def _compare_next(self, connection: Connection, progress: Progress, turn: Turn) -> bool:
        """The next slice by id; False when it was the last, and the next begins anew."""
        found = reconciliation.following(connection, progress.after, SLICE)
        away = self._repair(connection, found, progress, turn)
        if away is not None and progress.whole:
            raise away
        last = len(found.states) < SLICE
        progress.after = "" if last else found.states[-1].conversation_id
        return not last

    def _repair(self, connection: Connection, found: Slice, progress: Progress, turn: Turn) -> Transient | None:
        """File what drifted; the error of a kind whose copies could not be read now."""
        drift, away = compare(connection, found, self.effects)
        progress.pending |= repair(connection, drift, self.ring)
        for kind, shown in drift.items():
            turn.drifted[kind] += len(shown)
            keys: dict[str, Any] = {"kind": kind, "copies": len(shown), "conversation_ids": sorted(shown)[:20]}
            log.warning(f"{kind} has drifted: it is written again", action="drift_found", **keys)
        turn.compared += len(found.states)
        return away


def compare(connection: Connection, found: Slice, effects: Sequence[Effect]) -> tuple[Drift, Transient | None]:
    """The copies that do not show the truth, by kind; and the error of a kind whose copies could not be read now.

    The truth is looked at again after the copies: what moved between the two is no drift, whatever was seen.
    """
    drift: dict[str, Mapping[str, int | None]] = {}
    away = None
    for effect in effects:
        states = found.settled(effect.kind)
        if effect.drifted is None or not states:
            continue
        try:
            drift[effect.kind] = effect.drifted(states)
        except Transient as error:
            away = error
    ids = {id_ for shown in drift.values() for id_ in shown}
    if not ids:
        return {}, away
    then = {state.conversation_id: state.version for state in found.states}
    now = reconciliation.these(connection, ids)
    still = {
        kind: {s.conversation_id for s in now.settled(kind) if s.version == then[s.conversation_id]} for kind in drift
    }
    seen = {kind: {id_: at for id_, at in shown.items() if id_ in still[kind]} for kind, shown in drift.items()}
    return {kind: shown for kind, shown in seen.items() if shown}, away


def repair(connection: Connection, drift: Drift, ring: Callable[[list[str]], object]) -> dict[str, tuple[str, int]]:
    """File side effects for what drifted and ring; the filed rows. Where a copy is ahead of the truth, the truth gets a
    version above it, and every kind is filed: then all copies, and the browsers, take it for new.
    """
    shown = [(id_, version) for versions in drift.values() for id_, version in versions.items() if version is not None]
    highest: dict[str, int] = {}
    for id_, version in shown:
        highest[id_] = max(version, highest.get(id_, version))
    states = {s.conversation_id: s.version for s in reconciliation.these(connection, highest).states} if highest else {}
    ahead = {id_: version for id_, version in highest.items() if version > states.get(id_, version)}
    if ahead:
        reconciliation.raise_above(connection, ahead)
    filed: dict[str, tuple[str, int]] = {}
    wanted = {kind: {*drift.get(kind, ()), *ahead} for kind in POLICIES}
    for kind, ids in wanted.items():
        filed |= reconciliation.file(connection, kind, ids) if ids else {}
    if filed:
        ring([kind for kind, ids in wanted.items() if ids])
    return filed


def _counts(turn: Turn) -> list[Count]:
    by_kind: Mapping[str, Counter[str]] = {"drift_found": turn.drifted, "drift_repaired": turn.repaired}
    return [
        Count("reconciliations"),
        Count("compared", (), turn.compared),
        *(Count(name, (kind,), copies) for name, kinds in by_kind.items() for kind, copies in kinds.items()),
    ]
