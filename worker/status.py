"""`status`: the whole service on one screen. What a person must look at is marked, and makes it not well."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from config.hiding import hide
from worker import queues
from worker.app import app
from worker.db import backlog, counters
from worker.db.session import engine
from worker.errors import Transient

T = TypeVar("T")
# Seconds: workers that are busy answer all the same; those that do not are gone or cut off.
PING = 1.0
# Seconds: a sweep comes every two, a turn of comparing every thirty.
LATE = {"sweeps": 30.0, "reconciliations": 300.0}
LATE_COPY = 60.0
# Seconds: a copy younger than this is being written, and not yet a story.
IN_HAND = 5.0


@dataclass
class Status:
    """`problems` is what a person must look at, in sentences; the rest is what was found, or None where nobody said."""

    workers: list[str] | None = None
    last: dict[str, float] = field(default_factory=dict)
    queues: dict[str, int | None] | None = None
    outbox: int | None = None
    behind: list[backlog.Behind] | None = None
    rejected: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"well": self.well}


def look() -> Status:
    """Ask everybody; whoever does not answer is a problem, never an exception."""
    status = Status()
    numbers = _asked(status, "the database", lambda: counters.read(engine())) or []
    status.behind = _asked(status, "the database", lambda: backlog.behind(engine()))
    status.outbox = _asked(status, "the database", lambda: backlog.outbox(engine()))
    status.queues = _asked(status, "the broker", lambda: queues.depths(app))
    status.last = {
        number.name: time.time() - number.updated_at.timestamp() for number in numbers if number.name in LATE
    }
    status.rejected = int(sum(number.value for number in counters.named(numbers, "rejected_events")))
    if status.queues is not None:
        status.workers = sorted(name for answer in app.control.ping(timeout=PING) or [] for name in answer)
    _judge(status)
    return status


def _asked(status: Status, who: str, question: Callable[[], T]) -> T | None:
    try:
        return question()
    except Transient as error:
        sentence = f"{who} does not answer: {hide(str(error).splitlines()[0])}"
        if sentence not in status.problems:
            status.problems.append(sentence)
        return None


def _judge(status: Status) -> None:
    if status.workers == []:
        status.problems.append("no worker answers: redirects wait in their queue")
    if status.behind is None:
        return
    for name, late in LATE.items():
        ago = status.last.get(name)
        if ago is None or ago > late:
            since = "never ran" if ago is None else f"last ran {ago:.0f} s ago"
            status.problems.append(f"{name}: {since}; do beat and a worker run?")
    for row in status.behind:
        if row.state == "dead":
            status.problems.append(
                f"{row.conversations} {row.kind} copies are dead: redirect-worker effects list --state dead"
            )
        elif row.overdue > LATE_COPY:
            status.problems.append(f"{row.kind}: due for {row.overdue:.0f} s and not tried; do the workers run?")


def page(status: Status) -> str:
    lines = [_verdict(status), *(f"  ! {each}" for each in status.problems), ""]
    lines += [f"workers     {_listed(status.workers)}"]
    lines += [f"{name:16}{ago:.0f} s ago" for name, ago in sorted(status.last.items())]
    lines += ["", "waiting messages"]
    lines += [f"  {name:24}{'no such queue' if n is None else n}" for name, n in (status.queues or {}).items()]
    lines += [f"  {'outbox':24}{'-' if status.outbox is None else status.outbox}", "", "copies behind"]
    lines += [f"  {_row(row)}" for row in status.behind or []] or ["  none"]
    lines += ["", f"refused since counting began: {status.rejected}"]
    return "\n".join(lines)


def _verdict(status: Status) -> str:
    if not status.well:
        return "A PERSON MUST LOOK"
    late = sum(row.conversations for row in status.behind or [] if row.oldest > IN_HAND)
    return f"nobody is needed: {late} copies are behind, and tried again until they heal" if late else "all is well"


def _listed(names: list[str] | None) -> str:
    return "not known" if names is None else ", ".join(names) or "none"


def _row(row: backlog.Behind) -> str:
    return f"{row.kind:10}{row.state:9}{row.conversations:>8} copies in {row.rows} rows, the oldest {row.oldest:.0f} s"
