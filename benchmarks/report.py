"""docs/performance.md and its plots, from performance.json; `python -m benchmarks.report [FOLDER]` makes them again."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import plots, tables
from benchmarks.figures import Figures
from benchmarks.goals import goals
from benchmarks.processes import ROOT

DOCS = ROOT / "docs"
BEGIN, END = "<!-- written by hand: begin -->", "<!-- written by hand: end -->"
TEMPLATE = Path(__file__).with_name("performance.md.template")


def write(results: dict[str, Any], folder: Path = DOCS) -> None:
    """The JSON, the plots and the page. What was written by hand on the page stays."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "performance.md"
    figures = Figures(results)
    results["goals"] = [asdict(goal) | {"met": goal.met} for goal in goals(figures)]
    (folder / "performance.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    drawn = plots.draw(figures, folder / "performance")
    page.write_text(_page(figures, drawn, _by_hand(page)))


def merged(results: dict[str, Any], part: str, folder: Path) -> dict[str, Any]:
    """The results that `folder` has, with this one part of `results` in them; `results` where it has none."""
    kept = folder / "performance.json"
    return json.loads(kept.read_text()) | {part: results[part]} if kept.exists() else results


def _by_hand(page: Path) -> str:
    text = page.read_text() if page.exists() else ""
    _, begin, rest = text.partition(BEGIN)
    kept, end, _ = rest.partition(END)
    return kept.strip("\n") if begin and end else "To be written."


def _page(figures: Figures, drawn: list[str], by_hand: str) -> str:
    results = figures.results
    made = {
        "date": results["date"],
        "alternations": str(results["alternations"]),
        "minutes": f"{results['seconds'] / 60:.0f}",
        "seed": str(results["seed"]),
        "latency_events": str(results["latency_events"]),
        "applied": _applied(results),
        "by_hand": f"{BEGIN}\n{by_hand}\n{END}",
        "machine": tables.markdown(tables.pairs_table(["machine", ""], results["machine"])),
        "versions": tables.markdown(tables.pairs_table(["software", "version"], _versions(results))),
        "listeners_percent": _most(results.get("sockets"), "listeners_percent"),
        "publisher_percent": _most(results.get("sockets"), "publisher_percent"),
        "sockets_conditions": _conditions(results.get("sockets")),
        "postgres": ", ".join(f"`{name} = {value}`" for name, value in sorted(results["postgres"].items())),
    }
    for name in ("goal", "throughput", "cost", "latency", "sweep", "memory", "sockets"):
        made[f"{name}_table"] = tables.markdown(getattr(tables, f"{name}_table")(figures))
        made[f"{name}_plot"] = f"![{name}](performance/{name}.svg)" if name in drawn else ""
    text = TEMPLATE.read_text()
    for name, value in made.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _versions(results: dict[str, Any]) -> dict[str, str]:
    versions: dict[str, str] = results["versions"] | (results.get("sockets") or {}).get("versions", {})
    return versions


def _conditions(sockets: dict[str, Any] | None) -> str:
    """How many sockets of how many owners, how many updates, and when."""
    if sockets is None:
        return "Not measured in this run."
    each, machine = sockets["sockets"] // sockets["owners"], sockets["machine"]
    fewer = "" if sockets["sockets"] == sockets["asked"] else f" ({sockets['asked']:,} exceed the limit on open files)"
    return (
        f"{sockets['sockets']:,} sockets{fewer} on one process, {each} of each of {sockets['owners']:,} owners;"
        f" {sockets['rate']:g} updates per second for {sockets['publishing']:g} s, each for one owner:"
        f" {sockets['rate'] * each:,.0f} frames per second. Measured on {sockets['date']},"
        f" {sockets['alternations']} alternations in {sockets['seconds'] / 60:.0f} minutes, on {machine['cores']} cores"
        f" ({machine['CPU']}), load before: {machine['load before the run']}."
    )


def _most(sockets: dict[str, Any] | None, figure: str) -> str:
    """The highest of any turn."""
    found = [run[figure] for system in (sockets or {}).get("systems", ()) for run in system["runs"]]
    return f"{max(found, default=0):.0f}"


def _applied(results: dict[str, Any]) -> str:
    """The smallest share of applied events of any run of ours, in percent."""
    shares = [
        run["outcomes"].get("applied", 0) / sum(run["outcomes"].values())
        for system in results["systems"]
        for run in system["runs"]
    ]
    return f"{100 * min(shares, default=1):.1f} %"


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    write(json.loads((where / "performance.json").read_text()), where)
