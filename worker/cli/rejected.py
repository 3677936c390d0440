"""`redirect-worker rejected`."""

import sys

import click

from config.settings import settings
from worker.cli.output import as_json, print_


@click.group()
def rejected() -> None:
    """What was refused and kept: look at it, mend it, send it again."""


@rejected.command("list")
@click.option("--code", help="Only those with this code.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many, newest first.")
@as_json
def list_rejected(code: str | None, limit: int, as_json: bool) -> None:
    """The newest, one line each."""
    from worker import rejections
    from worker.db.session import engine

    found = rejections.listed(engine(), code, limit)
    print_(as_json, found, rejections.list_page(found))


@rejected.command("show")
@click.argument("identity", metavar="ID")
@as_json
def show_rejected(identity: str, as_json: bool) -> None:
    """All of ID (its first characters will do), with its body."""
    from worker import rejections
    from worker.db.session import engine

    found = rejections.look(engine(), identity)
    print_(as_json, found, rejections.page(found))


@rejected.command("resubmit")
@click.argument("identities", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them, or with --code all of one code.")
@click.option("--code", help="With --all: only those with this code.")
@click.option("--set", "settings_", metavar="FIELD=VALUE", multiple=True, help="Mend the event; null removes a field.")
@as_json
def resubmit_rejected(
    identities: tuple[str, ...], everything: bool, code: str | None, settings_: tuple[str, ...], as_json: bool
) -> None:
    """Put the events of ID... into the outbox, and out of the rejected. What would be refused again stays."""
    from worker import rejections, resubmit
    from worker.db import rejected as kept
    from worker.db.session import engine

    if everything == bool(identities) or (code and not everything):
        raise click.UsageError("name the ID of each, or say --all, or --all with --code")
    mended = resubmit.changes(settings_)
    if "event_id" in mended and len(identities) != 1:
        raise click.UsageError("--set event_id=... fits one ID: it is the identity of one event")
    named = dict.fromkeys(rejections.find(engine(), identity) for identity in identities)
    ids = kept.all_until_now(engine(), code) if everything else named
    report = resubmit.run(engine(), ids, mended, settings().destinations, _silent if as_json else _tell)
    if as_json:
        print_(as_json, report, "")
    sys.exit(1 if report["stays"] else 0)


def _tell(sentence: str, went: bool) -> None:
    click.echo(sentence if went else f"Error: {sentence}", err=not went)


def _silent(*_: object) -> None:
    """The whole report comes as JSON."""
