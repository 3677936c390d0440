"""`redirect-worker doctor`, `status` and `verify`: is all well?"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from config.settings import settings
from worker.cli.output import as_json, print_


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check everything this service stands on; exit 1 when something is wrong."""
    from worker import doctor as checks

    findings = checks.examine(settings())
    lines = [f"{'ok ' if finding.ok else 'BAD'}  {finding.name:22} {finding.says}" for finding in findings]
    print_(as_json, [finding.__dict__ for finding in findings], "\n".join(lines))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@click.command()
@as_json
def status(as_json: bool) -> None:
    """One screen: processes, queues, what is behind and what is dead; exit 1 when a person must look."""
    from worker import status as looking

    found = looking.look()
    print_(as_json, found.as_dict(), looking.page(found))
    sys.exit(0 if found.well else 1)


@click.command()
@click.option("--repair", is_flag=True, help="Have what has drifted written again, and wait for it.")
@click.option("--after", default="", metavar="ID", help="Begin behind this conversation, where an earlier run ended.")
@click.option("--rate", type=click.FloatRange(1), help="So many conversations a second at most; default: no limit.")
@click.option("--yes", is_flag=True, help="Do not ask before a repair.")
@as_json
def verify(repair: bool, after: str, rate: float | None, yes: bool, as_json: bool) -> None:
    """Compare every copy with the truth; exit 1 when some do not show it (with --repair: still do not)."""
    from worker import verify as checking
    from worker.db.session import engine

    if repair and not yes and not as_json:
        click.confirm("Have every copy that does not show the truth written again?", abort=True)
    run = checking.Run(engine(), repair, after, rate)
    try:
        with _progress(run, as_json) as told:
            run.all(told)
    except KeyboardInterrupt:
        raise click.ClickException(
            f"stopped after {run.report.compared} conversations; go on with --after '{run.report.after}'"
        ) from None
    print_(as_json, run.report.as_dict(), checking.page(run.report))
    sys.exit(0 if run.report.well else 1)


@contextmanager
def _progress(run: Any, as_json: bool) -> Iterator[Callable[[int], object]]:
    """A bar where a person watches; it hears how many more are done."""
    if as_json or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=run.expected(), label="compared", file=sys.stderr) as bar:
        yield bar.update
