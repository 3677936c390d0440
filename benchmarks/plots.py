"""The plots of docs/performance.md, from the results alone."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures

# Okabe and Ito's colours, which people with any colour vision can tell apart.
OURS, PEER, FLOOR = "#0072B2", "#E69F00", "#999999"
TASK = "#009E73"


def draw(figures: Figures, folder: Path) -> list[str]:
    """Write the SVG files for what was measured; returns their names."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text, and the same results give the same file.
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "redirect-worker", "font.size": 10, "axes.grid": True}
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.3, "axes.axisbelow": True}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"throughput": _throughput, "latency": _latency, "sweep": _sweep, "memory": _memory, "sockets": _sockets}
    return [name for name, plot in drawn.items() if _saved(plot(figures), folder / f"{name}.svg")]


def _saved(figure: Any, path: Path) -> bool:
    if figure is None:
        return False
    figure.savefig(path, metadata={"Date": None})
    return True


def _axes(width: float, height: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def _name(system: dict[str, Any]) -> str:
    broker = {"rabbitmq": " (RabbitMQ)", "redis": " (Redis)", "none": ""}[system["broker"]]
    return str(system["label"]) + broker


def _throughput(figures: Figures) -> Any:
    found = [(rate, system) for name, system in figures.systems.items() if (rate := figures.of(name, "rate"))]
    if not found:
        return None
    found.sort(key=lambda pair: pair[0].median)
    figure, axes = _axes(
        9, 0.4 * len(found) + 1.2, "Redirects per second, from a backlog until the last copy is written"
    )
    for row, (rate, system) in enumerate(found):
        ours, floor = system["name"].startswith("ours"), system["name"] == "floor"
        axes.barh(row, rate.median, color=OURS if ours else FLOOR if floor else PEER, height=0.7)
        axes.plot([rate.low, rate.high], [row, row], color="black", linewidth=1.5, marker="|", markersize=7)
        axes.annotate(f"{rate.median:,.0f}", (rate.high, row), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(found)), [_name(system) for _, system in found])
    axes.set_xscale("log")
    axes.set_xlim(right=2 * max(rate.high for rate, _ in found))
    axes.set_xlabel("bars: median; lines: lowest to highest alternation; log scale")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(visible=False, axis="y")
    return figure


def _latency(figures: Figures) -> Any:
    found = [system for system in figures.systems.values() if system["latency"]]
    if not found:
        return None
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = _axes(9, 5, "Publish to frame, one event at a time, 20 per second")
    for system in found:
        times = sorted(time for part in system["latency"] for time in part)
        shares = [100 * (position + 1) / len(times) for position in range(len(times))]
        colour = PEER if system["name"].startswith("plain") else TASK if "task" in system["name"] else OURS
        style = "-" if system["broker"] == "rabbitmq" else "--"
        axes.plot(times, shares, label=_name(system), color=colour, linestyle=style)
    axes.set_xlabel("milliseconds (log scale)")
    axes.set_ylabel("% of the events, all alternations")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _sweep(figures: Figures) -> Any:
    sweeps = figures.results.get("sweep")
    if not sweeps:
        return None
    figure, axes = _axes(7, 3.2, "A sweep with nothing due")
    sizes = [sweep["conversations"] for sweep in sweeps]
    for label, key, colour, marker in (("the query", "due_ms", OURS, "o"), ("a whole sweep", "sweep_ms", PEER, "s")):
        medians = [statistics.median(sweep[key]) for sweep in sweeps]
        below = [median - min(sweep[key]) for median, sweep in zip(medians, sweeps, strict=True)]
        above = [max(sweep[key]) - median for median, sweep in zip(medians, sweeps, strict=True)]
        axes.errorbar(sizes, medians, yerr=[below, above], color=colour, marker=marker, capsize=4, label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("conversations (log scale)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("milliseconds")
    axes.legend(fontsize=9)
    return figure


def _memory(figures: Figures) -> Any:
    points = (figures.results.get("memory") or {}).get("points")
    if not points:
        return None
    figure, axes = _axes(7, 3.2, "Private memory while one worker does redirect after redirect")
    redirects = [point["redirects"] for point in points]
    for label, key, colour, marker in (("worker", "worker_mib", OURS, "o"), ("intake", "intake_mib", PEER, "s")):
        axes.plot(redirects, [point[key] for point in points], color=colour, marker=marker, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("redirects")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("MiB (USS)")
    axes.legend(fontsize=9)
    return figure


def _sockets(figures: Figures) -> Any:
    sockets = figures.results.get("sockets")
    if not sockets:
        return None
    figure, axes = _axes(9, 4, f"Publish to frame, {sockets['sockets']:,} open sockets")
    for system, colour in zip(sockets["systems"], (OURS, PEER, FLOOR, TASK), strict=True):
        for number, run in enumerate(system["runs"]):
            label = None if number else system["label"]
            axes.plot(run["percentiles_ms"], range(101), color=colour, linewidth=1, label=label)
    axes.set_xlabel("milliseconds (log scale); a line for each alternation")
    axes.set_ylabel("% of the frames")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure
