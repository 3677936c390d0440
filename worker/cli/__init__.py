"""`redirect-worker`: the commands."""

import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click
from pydantic import ValidationError

from config.logging import configure
from config.settings import NotConfigured, settings
from worker.cli.checks import doctor, status, verify
from worker.cli.effects import effects
from worker.cli.output import as_json, first_line, print_
from worker.cli.rejected import rejected
from worker.errors import Permanent, WorkerError


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
        return f"the database: {first_line(getattr(error, 'orig', None) or error)}"
    if isinstance(error, OperationalError | RedisError | OSError | WorkerError):
        return first_line(error)
    return None


def _problem(item: Mapping[str, Any]) -> str:
    """One wrong setting, by the name that it has in the environment."""
    names = [name if name.isupper() else f"REDIRECT_{name.upper()}" for name in map(str, item["loc"][:1])]
    says = str(item["msg"]).removeprefix("Value error, ")
    return says if not names or names[0] in says else f"{names[0]}: {says}"


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
    from worker.demo.stage import end_like_ctrl_c

    end_like_ctrl_c()
    sys.exit(story.run(keep=keep))


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
    print_(as_json, {"sent": event}, f"sent {event['event_id']}: {event['conversation_id']} -> {event['destination']}")


def _publish(event: dict[str, Any]) -> None:
    from kombu.exceptions import OperationalError

    from worker.app import app

    try:
        app.send_task("redirect_conversation", (event,), queue="redirects")
    except (OperationalError, OSError, KeyError) as error:  # KeyError: no such kind of broker
        said = first_line(error)
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
    print_(as_json, found, looking.page(found))


@main.command()
@click.option("--owner", "owners", multiple=True, help="Whose conversations it shows; default: everybody's.")
@click.option("--scope", default="send operate", show_default=True, help="What its bearer may do besides reading.")
@click.option("--seconds", type=click.IntRange(1), help="How long it is good; default: REDIRECT_JWT_LIFETIME.")
@as_json
def token(owners: tuple[str, ...], scope: str, seconds: int | None, as_json: bool) -> None:
    """Print a token for the gateway, signed with REDIRECT_JWT_SECRET or the secret of `up`."""
    from worker.development import secret
    from worker.gateway.tokens import issue
    from worker.gateway.views import EVERYBODY

    lifetime = min(seconds or settings().jwt_lifetime, settings().jwt_lifetime)
    made = issue(secret(settings()), lifetime, owners or (EVERYBODY,), scope)
    print_(as_json, {"token": made, "expires_in": lifetime}, made)


@main.command()
@click.option("--down", is_flag=True, help="One revision back: what it had made is gone, with what was in it.")
@click.option("--to", metavar="REVISION", help="To this revision, forward or back.")
@click.option("--yes", is_flag=True, help="Do not ask before going back.")
@as_json
def migrate(down: bool, to: str | None, yes: bool, as_json: bool) -> None:
    """Bring the schema up to date and declare the queues."""
    from worker.app import app, declare_queues
    from worker.db import migrations
    from worker.db.session import engine

    before = migrations.current(engine())
    if down or to:
        if not yes and not as_json:
            click.confirm("A step back removes what the newer revision made. Go?", abort=True)
        migrations.move(before, to or migrations.before(before))
        after = migrations.current(engine())
        print_(as_json, {"from": before, "to": after}, f"schema: {before} -> {after}")
        return
    migrations.upgrade()
    queues = declare_queues(app)
    after = migrations.current(engine())
    print_(
        as_json,
        {"from": before, "to": after, "queues": queues},
        f"schema: {before or 'nothing'} -> {after}\nqueues: {', '.join(queues)}",
    )


for command in (doctor, effects, rejected, status, verify):
    main.add_command(command)
