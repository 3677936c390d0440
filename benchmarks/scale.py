"""What 1,000 to 1,000,000 redirects per second would take: a calculation from docs/performance.json, not a measurement.

`python -m benchmarks.scale` prints it, `--markdown` the part of docs/scale.md between the marks, `--svg` its picture.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import assumptions as assumed
from benchmarks.capacity import EVENTS_PER_ARRAY, HISTORY_DAYS, Limit, Measured, Step, limits, median, met, step
from benchmarks.figures import Figures
from benchmarks.limits_picture import draw, two_digits
from benchmarks.tables import Table, markdown, terminal

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- made by benchmarks/scale.py: begin -->", "<!-- made by benchmarks/scale.py: end -->"
RATES = (1_000, 10_000, 100_000, 1_000_000)


def core_table(results: dict[str, Any]) -> Table:
    figures = Figures(results)
    rows = [
        ["way in", "broker", "redirects/s, two cores for all", "CPU ms", "servers' CPU ms", "redirects/s, one core"]
    ]
    for name, system in figures.systems.items():
        if name.startswith("ours-"):
            rate, cpu, servers = (median(figures, name, figure) for figure in ("rate", "cpu_ms", "server_cpu_ms"))
            label = system["label"].removeprefix("this service, ")
            numbers = [f"{rate:,.0f}", f"{cpu:.3f}", f"{servers:.3f}", f"{1000 / cpu:,.0f}"]
            rows.append([label, {"rabbitmq": "RabbitMQ"}.get(system["broker"], "Redis"), *numbers])
    return rows


def limit_table(measured: Measured) -> Table:
    rows = [
        [limit.what, two_digits(limit.rate), "the code" if limit.in_code else "size", limit.beyond]
        for limit in limits(measured)
    ]
    return [["what", "redirects/s", "set by", "beyond it"], *rows]


ROWS: tuple[tuple[str, Callable[[Step], str]], ...] = (
    ("cores of workers", lambda s: _up(s.worker_cores)),
    ("memory of workers, GiB", lambda s: _up(s.worker_mib / 1024)),
    ("cores of intake", lambda s: _up(s.intake_cores)),
    ("PostgreSQL primaries, for speed", lambda s: f"{s.primaries:,}"),
    (f"PostgreSQL primaries, for {HISTORY_DAYS} days of history", lambda s: f"{s.primaries_for_history:,}"),
    ("quorum queues, one event per message", lambda s: f"{s.queues:,}"),
    (f"quorum queues, arrays of {EVENTS_PER_ARRAY}", lambda s: f"{s.queues_of_arrays:,}"),
    ("RabbitMQ nodes, one event per message", lambda s: f"{s.nodes:,}"),
    ("Redis, for commands (by owner)", lambda s: f"{s.redis_for_commands:,}"),
    ("Redis, for the memory of the keys", lambda s: f"{s.redis_for_memory:,}"),
    ("open sockets", lambda s: f"{s.sockets:,}"),
    ("gateway processes, for sockets", lambda s: f"{s.gateways_for_sockets:,}"),
    ("gateway processes, for sockets and frames (by owner)", lambda s: f"{s.gateways_by_owner:,}"),
    ("network between the services, Gbit/s", lambda s: two_digits(s.network / 1e9)),
    ("frames from Redis to the gateways today, Gbit/s", lambda s: two_digits(s.frames_today / 1e9)),
    ("history per day, TB", lambda s: two_digits(s.history_per_day / 1e12)),
    (f"history of {HISTORY_DAYS} days, TB", lambda s: two_digits(s.history / 1e12)),
    ("WAL per day, TB", lambda s: two_digits(s.wal_per_day / 1e12)),
    ("installations of this code, history aside", lambda s: f"{s.installations:,}"),
)


def step_table(measured: Measured) -> Table:
    steps = [step(measured, rate) for rate in RATES]
    rows = [[name, *(cell(one) for one in steps)] for name, cell in ROWS]
    found = [met(measured, rate, before) for rate, before in zip(RATES, (0, *RATES), strict=False)]
    rows.append(["first limit on the way there", *map(_first, found)])
    stays = [[limit for limit in one if limit.in_code] for one in found]
    rows.append(["first that more machines do not lift", *map(_first, stays)])
    return [["redirects per second", *(f"{rate:,}" for rate in RATES)], *rows]


def _first(found: Sequence[Limit]) -> str:
    return found[0].what if found else "none new"


def assumption_table() -> Table:
    rows = [[f"`{name}`", f"{value:,.15g}", value.unit, value.why] for name, value in assumed.ALL.items()]
    return [["name", "value", "unit", "why"], *rows]


def _up(number: float) -> str:
    return f"{math.ceil(number):,}"


def block(results: dict[str, Any]) -> str:
    """The part of docs/scale.md that is made."""
    measured = Measured.of(results)
    parts = {
        "One core": markdown(core_table(results)),
        "The limits, one after the other": _prose(limit_table(measured)),
        "The steps": markdown(step_table(measured)),
        "The assumptions": _prose(assumption_table()),
    }
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in parts.items())


def _prose(table: Table) -> str:
    """Sentences begin on the left."""
    return markdown(table).replace("---:", "---")


def picture(results: dict[str, Any]) -> str:
    return draw([(one.what.replace("`", ""), one.rate, one.in_code) for one in limits(Measured.of(results))])


def main(arguments: Sequence[str]) -> None:
    results = json.loads((DOCS / "performance.json").read_text())
    if "--markdown" in arguments:
        print(block(results))  # noqa: T201 - it is what this is for
    elif "--svg" in arguments:
        print(picture(results), end="")  # noqa: T201
    else:
        tables = (core_table(results), limit_table(Measured.of(results)), step_table(Measured.of(results)))
        print("A calculation, not a measurement.\n", *map(terminal, tables), sep="\n\n")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
