"""`verify`: every copy of every conversation against the truth, slice by slice, and repaired if asked."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, text

from worker.app import app as _celery  # noqa: F401 - ring sends through the application that this makes
from worker.db import reconciliation
from worker.db.reconciliation import Slice
from worker.db.session import single_statements, translated
from worker.errors import Transient
from worker.hosts import host
from worker.reconcile import Drift, compare, repair
from worker.tasks.doorbell import ring

SLICE = 1000
# Of what has drifted, so many are named.
NAMED = 20
# Seconds that a repair may take, beginning with the last that was filed, before it is given to the schedule.
PATIENCE = 30.0
_EXPECTED = text("SELECT count(*) FROM conversation_states WHERE version > 0 AND conversation_id > :after")


@dataclass
class Report:
    """`behind` copies are known to the schedule, `drifted` ones were not; those in `repaired` show the truth now."""

    compared: int = 0
    after: str = ""
    drifted: Counter[str] = field(default_factory=Counter)
    behind: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not (self.drifted - self.repaired) and not self.behind

    def as_dict(self) -> dict[str, Any]:
        counts = {name: dict(getattr(self, name)) for name in ("drifted", "behind", "repaired")}
        return {"compared": self.compared, "after": self.after, **counts, "named": self.named, "well": self.well}


class Run:
    """One comparison of all conversations behind the id `after`, at most `rate` a second."""

    def __init__(self, engine: Engine, repair: bool, after: str, rate: float | None) -> None:
        self.report = Report(after=after)
        self._engine, self._repair, self._rate = engine, repair, rate

    def expected(self) -> int:
        """How many there are to compare."""
        with translated(), self._engine.connect() as connection:
            return int(connection.execute(_EXPECTED, {"after": self.report.after}).scalar_one())

    def all(self, told: Callable[[int], object]) -> None:
        """To the last; `told` hears how many more are compared. Raises Transient when copies cannot be read."""
        with translated(), single_statements(self._engine) as connection:
            while states := self._slice(connection).states:
                told(len(states))

    def _slice(self, connection: Connection) -> Slice:
        started = time.monotonic()
        found = reconciliation.following(connection, self.report.after, SLICE)
        drift, away = compare(connection, found, host().effects)
        if away is not None:
            raise away
        for kind, ids in drift.items():
            self.report.drifted[kind] += len(ids)
            self.report.named += [f"{kind} of {id_}" for id_ in sorted(ids)[: NAMED - len(self.report.named)]]
        for kinds in found.behind.values():
            self.report.behind.update(kinds)
        if drift and self._repair:
            self._mend(connection, drift)
        if found.states:
            self.report.compared += len(found.states)
            self.report.after = found.states[-1].conversation_id
            if self._rate:
                time.sleep(max(0.0, len(found.states) / self._rate - (time.monotonic() - started)))
        return found

    def _mend(self, connection: Connection, drift: Drift) -> None:
        """Have them written, wait for the workers, and look again: repaired is what was seen to be right."""
        filed = repair(connection, drift, lambda kinds: ring(kinds, "verify"))
        deadline = time.monotonic() + PATIENCE
        while reconciliation.left(connection, filed) and time.monotonic() < deadline:
            time.sleep(0.05)
        for kind, ids in drift.items():
            now = reconciliation.these(connection, ids)
            left, away = compare(connection, now, host().effects)
            if away is not None:
                raise Transient(f"repaired, but not seen to be: {away}")
            behind = {id_ for id_, kinds in now.behind.items() if kind in kinds}
            self.report.repaired[kind] += len(set(ids) - behind - set(left.get(kind, ())))


def page(report: Report) -> str:
    fate = "all copies agree" if report.well else "NOT all copies agree"
    return "\n".join(
        [
            f"{report.compared} conversations compared",
            *(f"  {kind}: {n} had drifted, {report.repaired[kind]} repaired" for kind, n in report.drifted.items()),
            *(f"  {kind}: {n} are behind, and scheduled (effects list)" for kind, n in report.behind.items()),
            *(f"    {name}" for name in report.named),
            fate,
        ]
    )
