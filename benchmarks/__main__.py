"""`python -m benchmarks`: measure, check, print, and write docs/performance.md. Ctrl-C ends all that it has started."""

import signal
import sys
from pathlib import Path

import click

from benchmarks import report, tables
from benchmarks.catalogue import SYSTEMS
from benchmarks.checks import CheckFailed
from benchmarks.figures import Figures
from benchmarks.plan import Plan
from benchmarks.processes import NotReady
from benchmarks.run import run

PARTS = ("latency", "memory", "sweep", "sockets")
# The part that may be measured by itself: it says for itself when and on what it was measured.
ALONE = "sockets"


def _names(_context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    known = PARTS if option.name == "skip" else (*(system.name for system in SYSTEMS), ALONE)
    names = tuple(filter(None, (value or "").split(",")))
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(known)}")
    return names


@click.command()
@click.option(
    "--only", callback=_names, help=f"Systems, with commas: writes no docs. {ALONE}: the rest of the docs stays."
)
@click.option("--skip", callback=_names, help=f"Any of {', '.join(PARTS)}, with commas. Writes no docs.")
@click.option("--alternations", type=click.IntRange(1), default=5, show_default=True)
@click.option("--events", type=click.IntRange(1), help="The backlog of every system, at most its own default.")
@click.option("--seed", type=int, default=20261122, show_default=True)
@click.option("--quick", is_flag=True, help="Tiny, to try the benchmark itself. Writes no docs.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write the docs into this folder, whatever was left out."
)
def main(
    only: tuple[str, ...],
    skip: tuple[str, ...],
    alternations: int,
    events: int | None,
    seed: int,
    quick: bool,
    output: Path | None,
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    alone = only == (ALONE,)
    chosen = [system for system in SYSTEMS if not only or system.name in only]
    left_out = {ALONE} if only and ALONE not in only else set(PARTS) - {ALONE} if alone else set()
    plan = Plan(chosen, alternations, events, seed, skip=frozenset(skip) | left_out, quick=quick)
    try:
        results = run(plan)
    except (CheckFailed, NotReady) as failure:
        click.secho(f"FAILED: {failure}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("interrupted: all that was started is ended", err=True)
        sys.exit(130)
    figures = Figures(results)
    for name in ("throughput", "cost", "latency", "sweep", "memory", "sockets", "goal"):
        table = getattr(tables, f"{name}_table")(figures)
        if len(table) > 1:
            click.echo(f"\n{tables.terminal(table)}")
    if folder := output or (None if (only and not alone) or skip or quick or events else report.DOCS):
        report.write(report.merged(results, ALONE, folder) if alone else results, folder)
        click.echo(f"\nwritten: {folder / 'performance.md'}")


if __name__ == "__main__":
    main(auto_envvar_prefix="BENCH")
