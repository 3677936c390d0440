"""The tables of a run, for the terminal and for docs/performance.md."""

import statistics
from collections.abc import Sequence

from benchmarks.figures import Figures, Spread
from benchmarks.goals import goals

Table = list[list[str]]


def markdown(table: Table) -> str:
    head, *rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def terminal(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(_aligned, cells, widths, range(len(cells)))) for cells in table)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def goal_table(figures: Figures) -> Table:
    rows = [[goal.what, goal.asked, goal.found, goal.verdict] for goal in goals(figures)]
    return [["what", "goal", "measured", "verdict"], *rows]


def throughput_table(figures: Figures) -> Table:
    head = ["system", "broker", "backlog", "redirects/s", "lowest to highest", "plain Celery = 1"]
    return [head, *(_rate_row(figures, name) for name in figures.systems if figures.of(name, "rate"))]


def _rate_row(figures: Figures, name: str) -> list[str]:
    system, rate = figures.systems[name], figures.of(name, "rate")
    assert rate is not None
    # What uses no broker is compared with the faster of the two.
    broker = system["broker"] if system["broker"] != "none" else "rabbitmq"
    times = figures.ratio(name, f"plain-celery-{broker}")
    return [
        system["label"],
        _broker(system["broker"]),
        f"{system['runs'][0]['events']:,}",
        _short(rate.median),
        f"{_short(rate.low)} to {_short(rate.high)}",
        f"{times:.1f}" if times else "",
    ]


def cost_table(figures: Figures) -> Table:
    head = ["system", "broker", "CPU ms", "servers' CPU ms", "statements", "peak memory, MiB"]
    rows = []
    for name, system in figures.systems.items():
        found = [figures.of(name, figure) for figure in ("cpu_ms", "server_cpu_ms", "statements", "peak_mib")]
        numbers = [_figure(one, digits) for one, digits in zip(found, (3, 3, 3, 0), strict=True)]
        rows.append([system["label"], _broker(system["broker"]), *numbers])
    return [head, *rows]


def latency_table(figures: Figures) -> Table:
    rows = []
    for name, system in figures.systems.items():
        cells = []
        for share in (0.5, 0.99):
            found = figures.latency(name, share)
            cells += [_figure(found, 1), f"{found.low:.1f} to {found.high:.1f}" if found else ""]
        if any(cells):
            rows.append([system["label"], _broker(system["broker"]), *cells])
    return [["system", "broker", "p50, ms", "lowest to highest", "p99, ms", "lowest to highest"], *rows]


def sweep_table(figures: Figures) -> Table:
    sweeps = figures.results.get("sweep") or ()
    rows = [[f"{one['conversations']:,}", _median(one["due_ms"]), _median(one["sweep_ms"])] for one in sweeps]
    return [["conversations", "the query, ms", "a whole sweep, ms"], *rows]


def memory_table(figures: Figures) -> Table:
    points = (figures.results.get("memory") or {}).get("points", ())
    rows = [[f"{p['redirects']:,}", f"{p['worker_mib']:.1f}", f"{p['intake_mib']:.1f}"] for p in points]
    return [["redirects", "worker, MiB", "intake, MiB"], *rows]


def sockets_table(figures: Figures) -> Table:
    columns = {
        "p50, ms": ("p50", 1),
        "p99, ms": ("p99", 1),
        "frames lost": ("lost", 0),
        "memory per socket, KiB": ("kib_per_socket", 1),
        "CPU ms per frame": ("cpu_ms", 3),
        "CPU, % of a core": ("cpu_percent", 0),
        "stores' CPU ms per update": ("stores_cpu_ms", 3),
        "all open after, s": ("open_seconds", 0),
    }
    rows = []
    for system in (figures.results.get("sockets") or {}).get("systems", ()):
        found = [(figures.of_sockets(system["name"], figure), digits) for figure, digits in columns.values()]
        rows.append([system["label"], *(_with_spread(one, digits) for one, digits in found)])
    return [["system", *columns], *rows]


def pairs_table(head: Sequence[str], pairs: dict[str, str]) -> Table:
    return [list(head), *([name, value] for name, value in pairs.items())]


def _broker(name: str) -> str:
    return {"rabbitmq": "RabbitMQ", "redis": "Redis", "none": "none"}[name]


def _figure(found: Spread | None, digits: int) -> str:
    return f"{found.median:.{digits}f}" if found else ""


def _with_spread(found: Spread | None, digits: int) -> str:
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})" if found else ""


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f}"


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
