"""What Prometheus is told: of all processes together, from the ledger and the broker, at the moment it asks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from operator import attrgetter
from typing import TypeVar

import structlog
from celery import Celery
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from sqlalchemy import Engine

from config.settings import NotConfigured
from worker import queues
from worker.db import backlog, counters
from worker.db.counters import BOUNDS, Counter
from worker.errors import Transient
from worker.policy import POLICIES

log = structlog.get_logger(__name__)
T = TypeVar("T")
PREFIX = "redirect_worker_"

# Counter in the ledger -> its name for Prometheus, its labels, and what it counts.
TOTALS = {
    "redirects": ("redirects", ("destination", "outcome"), "Redirects that were decided"),
    "rejected_events": ("rejected_events", ("code",), "Events that were refused and kept"),
    "sweeps": ("sweeps", (), "Times that what is due was looked for"),
    "reconciliations": ("reconciliations", (), "Turns of comparing copies with the truth"),
    "compared": ("reconciled_conversations", (), "Conversations whose copies were compared with the truth"),
    "drift_found": ("drift_found", ("kind",), "Copies that did not show the truth though nothing was behind"),
    "drift_repaired": ("drift_repaired", ("kind",), "Copies that had drifted and are written again"),
    "publish_failures": ("publish_failures", ("message",), "Messages that the broker did not take at the first try"),
}
# Those of which it also matters when they last grew.
LAST = {"sweeps": "last_sweep", "reconciliations": "last_reconciliation"}


def collect(engine: Engine, app: Celery) -> Iterator[Metric]:
    """Every metric that can be had now; `redirect_worker_up` says which part did not answer. Never raises."""
    up = GaugeMetricFamily(f"{PREFIX}up", "Whether this part answered", labels=["part"])
    numbers = _asked(up, "database", lambda: counters.read(engine))
    behind = _asked(up, "database", lambda: (backlog.behind(engine), backlog.outbox(engine)))
    dead = _asked(up, "database", lambda: backlog.unvacuumed(engine))
    depths = _asked(up, "broker", lambda: queues.depths(app))
    yield from () if numbers is None else _counted(numbers)
    yield from () if behind is None else _behind(*behind)
    yield from () if dead is None else _unvacuumed(dead)
    yield from () if depths is None else _depths(depths)
    yield up
    yield InfoMetricFamily(f"{PREFIX}build", "This release", {"version": version("redirect-worker")})


def _asked(up: GaugeMetricFamily, part: str, question: Callable[[], T]) -> T | None:
    known = {sample.labels["part"] for sample in up.samples}
    try:
        answer = question()
    except (Transient, NotConfigured) as error:
        log.warning(f"the {part} does not answer", action="metrics_incomplete", error=str(error))
        answer = None
    if part not in known:
        up.add_metric([part], 0 if answer is None else 1)
    return answer


def _counted(numbers: Sequence[Counter]) -> Iterator[Metric]:
    for name, (shown, labels, what) in TOTALS.items():
        total = CounterMetricFamily(f"{PREFIX}{shown}", what, labels=labels)
        for counter in counters.named(numbers, name):
            total.add_metric(counter.labels, counter.value)
        if not labels and not total.samples:
            total.add_metric((), 0)
        yield total
    for name, shown in LAST.items():
        last = GaugeMetricFamily(f"{PREFIX}{shown}_timestamp_seconds", f"When `{name}` last grew")
        for counter in counters.named(numbers, name):
            last.add_metric((), counter.updated_at.timestamp())
        yield last
    yield _latencies(numbers)


def _latencies(numbers: Sequence[Counter]) -> Metric:
    """The ledger has the copies in each bucket, Prometheus wants those in it and below."""
    histogram = HistogramMetricFamily(
        f"{PREFIX}copy_seconds", "From the redirect's commit until the copy is written", labels=["kind"]
    )
    in_bucket = {counter.labels: counter.value for counter in counters.named(numbers, "copy_seconds")}
    sums = {counter.labels[0]: counter.value for counter in counters.named(numbers, "copy_seconds_sum")}
    # PostgreSQL's width_bucket: 0 is below the first bound, n at or above the n-th.
    for kind, total in sums.items():
        counts = accumulate(in_bucket.get((kind, str(bucket)), 0.0) for bucket in range(len(BOUNDS) + 1))
        bounds = [*map(str, BOUNDS), "+Inf"]
        histogram.add_metric([kind], list(zip(bounds, counts, strict=True)), total)
    return histogram


def _behind(rows: Sequence[backlog.Behind], outbox: int) -> Iterator[Metric]:
    """A kind that is not behind is told as zero: an alert on what is absent never ends."""
    gauges = {
        "side_effects": ("Rows of work", attrgetter("rows")),
        "copies_behind": ("Copies that do not show the truth yet", attrgetter("conversations")),
        "oldest_behind_seconds": ("Age of the oldest", attrgetter("oldest")),
        "oldest_due_seconds": ("How long the first has been due", attrgetter("overdue")),
    }
    there = {(row.kind, row.state): row for row in rows}
    for name, (what, number) in gauges.items():
        gauge = GaugeMetricFamily(f"{PREFIX}{name}", what, labels=["kind", "state"])
        for key in _keys(there):
            gauge.add_metric(key, number(there[key]) if key in there else 0)
        yield gauge
    yield GaugeMetricFamily(f"{PREFIX}outbox_events", f"Events in the outbox, up to {backlog.OUTBOX_COUNTED}", outbox)


def _keys(there: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted({*there, *((kind, state) for kind in POLICIES for state in ("waiting", "dead"))})


def _unvacuumed(tables: dict[str, int]) -> Iterator[Metric]:
    gauge = GaugeMetricFamily(f"{PREFIX}unvacuumed_rows", "Dead rows that are still in the table", labels=["table"])
    for name, number in tables.items():
        gauge.add_metric([name], number)
    yield gauge


def _depths(depths: dict[str, int | None]) -> Iterator[Metric]:
    gauge = GaugeMetricFamily(f"{PREFIX}queue_messages", "Messages that wait in the broker", labels=["queue"])
    for name, number in depths.items():
        if number is not None:
            gauge.add_metric([name], number)
    yield gauge
