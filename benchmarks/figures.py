"""Medians and spreads of a run's results."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """A median, and the smallest and largest of the alternations."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


CHANNELS = ("channels", "channels-core")


class Figures:
    """Answers from the content of performance.json. None: not measured in this run."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.systems: dict[str, dict[str, Any]] = {system["name"]: system for system in results["systems"]}

    def of(self, name: str, figure: str) -> Spread | None:
        """`rate`, `cpu_ms`, `server_cpu_ms`, `statements` or `peak_mib` of a system."""
        runs = self.systems.get(name, {}).get("runs")
        return spread([run[figure] for run in runs]) if runs else None

    def latency(self, name: str, share: float) -> Spread | None:
        """Milliseconds: the percentile of each alternation, then their median."""
        rounds = self.systems.get(name, {}).get("latency")
        return spread([percentile(times, share) for times in rounds]) if rounds else None

    def ratio(self, name: str, other: str, figure: str = "rate") -> float | None:
        ours, theirs = self.of(name, figure), self.of(other, figure)
        return ours.median / theirs.median if ours and theirs else None

    def latency_ratio(self, name: str, other: str, share: float) -> float | None:
        ours, theirs = self.latency(name, share), self.latency(other, share)
        return ours.median / theirs.median if ours and theirs else None

    def of_sockets(self, name: str, figure: str) -> Spread | None:
        """`p50`, `p99` (milliseconds), or another figure of a turn: `kib_per_socket`, `cpu_ms`, ..."""
        systems = {system["name"]: system for system in (self.results.get("sockets") or {}).get("systems", ())}
        if name not in systems:
            return None
        runs = systems[name]["runs"]
        share = {"p50": 50, "p99": 99}.get(figure)
        return spread([run[figure] if share is None else run["percentiles_ms"][share] for run in runs])

    def sockets_ratio(self, figure: str) -> float | None:
        """The gateway's median over the better of Django Channels' two layers, with clients like browsers."""
        ours = self.of_sockets("gateway", figure)
        theirs = [one.median for name in CHANNELS if (one := self.of_sockets(name, figure))]
        return ours.median / min(theirs) if ours and theirs else None

    def sweep_growth(self, figure: str) -> float | None:
        """The cost with the most conversations over the cost with the fewest: `due_ms` or `sweep_ms`."""
        sweeps = self.results.get("sweep")
        if not sweeps:
            return None
        return float(statistics.median(sweeps[-1][figure]) / statistics.median(sweeps[0][figure]))

    def memory_growth(self) -> float | None:
        """A worker's private memory at the end over that after the first step."""
        points = (self.results.get("memory") or {}).get("points")
        return float(points[-1]["worker_mib"] / points[0]["worker_mib"]) if points else None
