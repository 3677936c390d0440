"""`redirect-worker`: the commands."""

import json
import signal
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click
from pydantic import ValidationError

from config.logging import configure
from config.settings import NotConfigured, settings
from worker.errors import Permanent, WorkerError

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Commands(click.Group):
    """Errors that a person can act on are one line, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if (sentence := _sentence(error)) is None:
                raise
            raise click.ClickException(sentence) from error


def _sentence(error: Exception) -> str | None:
    """What to tell a person about an error of the outside world; None for a bug, which needs its traceback."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, ValidationError):
        return "; ".join(_problem(item) for item in error.errors())
    if isinstance(error, NotConfigured | Permanent):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return f"the database: {_first_line(getattr(error, 'orig', None) or error)}"
    if isinstance(error, OperationalError | RedisError | OSError | WorkerError):
        return _first_line(error)
    return None


def _problem(item: Mapping[str, Any]) -> str:
    """One wrong setting, by the name that it has in the environment."""
    names = [name if name.isupper() else f"REDIRECT_{name.upper()}" for name in map(str, item["loc"][:1])]
    says = str(item["msg"]).removeprefix("Value error, ")
    return says if not names or names[0] in says else f"{names[0]}: {says}"


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Hands customer conversations between an AI assistant and human teams."""
    configure("text")


@main.command()
def up() -> None:
    """Stay up: worker, beat, gateway and Flower, with embedded servers for every URL that is not set."""
    from worker import up as stack

    sys.exit(stack.up(settings(), click.echo))


@main.command()
@click.option("--keep", is_flag=True, help="Keep the demo's folder, with all logs.")
def demo(keep: bool) -> None:
    """Everything from nothing: process the example events, break the cache, watch it heal."""
    from worker import demo as story

    _end_like_ctrl_c()
    sys.exit(story.run(keep=keep))


def _end_like_ctrl_c() -> None:
    """From now on the first of these signals is a KeyboardInterrupt; a second one does not disturb the clearing up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def once(*_: object) -> None:
        for number in numbers:
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, once)


@main.command()
@click.argument("conversation_id")
@click.argument("destination")
@click.option("--owner", "owner_id", help="The owner of the conversation.")
@click.option("--reason", help="Why, in words.")
@click.option("--at", "occurred_at", help="When it was decided (RFC 3339); default: now.")
@click.option("--event-id", help="The event's identity; default: a new one.")
@as_json
def send(as_json: bool, **fields: Any) -> None:
    """Redirect CONVERSATION_ID to DESTINATION, as any Celery producer would."""
    from worker.events import parse

    event = {name: value for name, value in fields.items() if value is not None}
    event.setdefault("event_id", f"cli-{uuid.uuid4()}")
    event.setdefault("occurred_at", datetime.now(UTC).isoformat())
    event |= {"source": "cli", "actor": {"type": "user"}}
    parse(event, settings().destinations)
    _publish(event)
    _print(as_json, {"sent": event}, f"sent {event['event_id']}: {event['conversation_id']} -> {event['destination']}")


def _publish(event: dict[str, Any]) -> None:
    from kombu.exceptions import OperationalError

    from worker.app import app

    try:
        app.send_task("redirect_conversation", (event,), queue="redirects")
    except (OperationalError, OSError, KeyError) as error:  # KeyError: no such kind of broker
        said = _first_line(error)
        raise click.ClickException(f"the broker cannot be reached, so nothing was sent: {said}") from error


@main.command()
@click.argument("conversation_id")
@as_json
def show(conversation_id: str, as_json: bool) -> None:
    """Show CONVERSATION_ID: its state, its copies, what is behind, and its redirects."""
    from worker import show as looking

    found = looking.look(conversation_id)
    if found is None:
        raise click.ClickException(f"conversation {conversation_id!r} is not known: nothing was ever redirected there")
    _print(as_json, found, looking.page(found))


@main.group()
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
    _print(as_json, found, rejections.list_page(found))


@rejected.command("show")
@click.argument("identity", metavar="ID")
@as_json
def show_rejected(identity: str, as_json: bool) -> None:
    """All of ID (its first characters will do), with its body."""
    from worker import rejections
    from worker.db.session import engine

    found = rejections.look(engine(), identity)
    _print(as_json, found, rejections.page(found))


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
        _print(as_json, report, "")
    sys.exit(1 if report["stays"] else 0)


def _tell(sentence: str, went: bool) -> None:
    click.echo(sentence if went else f"Error: {sentence}", err=not went)


def _silent(*_: object) -> None:
    """The whole report comes as JSON."""


@main.command()
@as_json
def migrate(as_json: bool) -> None:
    """Bring the schema up to date and declare the queues."""
    from worker.app import app, declare_queues
    from worker.db import migrations
    from worker.db.session import engine

    before = migrations.current(engine())
    migrations.upgrade()
    queues = declare_queues(app)
    after = migrations.current(engine())
    _print(
        as_json,
        {"from": before, "to": after, "queues": queues},
        f"schema: {before or 'nothing'} -> {after}\nqueues: {', '.join(queues)}",
    )


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check everything this service stands on; exit 1 when something is wrong."""
    from worker import doctor as checks

    findings = checks.examine(settings())
    lines = [f"{'ok ' if finding.ok else 'BAD'}  {finding.name:22} {finding.says}" for finding in findings]
    _print(as_json, [finding.__dict__ for finding in findings], "\n".join(lines))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _print(as_json: bool, data: Any, text: str) -> None:
    click.echo(json.dumps(data, default=str, ensure_ascii=False) if as_json else text)
