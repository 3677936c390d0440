"""`redirect-worker effects`: what is behind and what is dead."""

from typing import Any

import click

from worker.cli.output import as_json, first_line, print_


@click.group()
def effects() -> None:
    """Copies that are behind or dead: look at them, have them tried now, or let them go."""


@effects.command("list")
@click.option("--kind", help="Only this kind: cache, websocket or record.")
@click.option("--state", type=click.Choice(["waiting", "dead"]), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many, oldest first.")
@as_json
def list_effects(kind: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """The oldest, one line each."""
    from worker.db import retry
    from worker.db.session import engine

    found = retry.listed(engine(), kind, state, limit)
    print_(as_json, {"effects": found}, _page(found, limit))


def _page(found: list[dict[str, Any]], limit: int) -> str:
    lines = [_line(row) for row in found]
    if len(found) == limit:
        lines.append(f"the oldest {limit}: see more with --limit")
    return "\n".join(lines) if lines else "nothing is behind, and nothing is dead"


def _line(row: dict[str, Any]) -> str:
    due = "DEAD" if row["state"] == "dead" else f"next {row['due_at']:%H:%M:%S}"
    more = row["conversations"] - len(row["first_ids"])
    about = ", ".join(row["first_ids"]) + (f" and {more} more" if more > 0 else "")
    why = first_line(row["last_error"]) if row["last_error"] else "not tried yet"
    return f"{row['id']:>8}  {row['kind']:9}  {due:13}  {row['failures']:>3} failures  {about}: {why}"


@effects.command("retry")
@click.argument("identities", metavar="ID...", nargs=-1, type=int)
@click.option("--dead", is_flag=True, help="All that are dead.")
@click.option("--kind", help="With --dead: only this kind.")
@as_json
def retry_effects(identities: tuple[int, ...], dead: bool, kind: str | None, as_json: bool) -> None:
    """Have the side effects ID..., or all that are dead, tried now; a dead one begins its schedule anew."""
    from worker.app import app  # noqa: F401 - ring sends through it
    from worker.db import retry
    from worker.db.session import engine
    from worker.tasks.doorbell import ring

    _chosen(identities, dead, kind)
    found = retry.again(engine(), list(identities) or None, kind)
    ring(sorted({row["kind"] for row in found}), "effects retry")
    print_(as_json, {"retried": found}, f"{len(found)} side effects are tried now")
    _all_found(identities, found)


@effects.command("discard")
@click.argument("identities", metavar="ID...", nargs=-1, type=int)
@click.option("--dead", is_flag=True, help="All that are dead.")
@click.option("--kind", help="With --dead: only this kind.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def discard_effects(identities: tuple[int, ...], dead: bool, kind: str | None, yes: bool, as_json: bool) -> None:
    """Let dead side effects go. Their copies stay as they are until the conversation moves, or drift is found."""
    from worker.db import retry
    from worker.db.session import engine

    _chosen(identities, dead, kind)
    if not yes:
        what = f"{len(identities)} side effects" if identities else f"all dead side effects{f' of {kind}' * bool(kind)}"
        click.confirm(f"Let {what} go? Their copies may show an old owner", abort=True)
    found = retry.discard(engine(), list(identities) or None, kind)
    print_(as_json, {"discarded": found}, f"{len(found)} side effects are gone")
    _all_found(identities, found)


def _chosen(identities: tuple[int, ...], dead: bool, kind: str | None) -> None:
    if dead == bool(identities) or (kind and not dead):
        raise click.UsageError("name the ID of each, or say --dead, or --dead with --kind")


def _all_found(identities: tuple[int, ...], found: list[dict[str, Any]]) -> None:
    missing = set(identities) - {row["id"] for row in found}
    if missing:
        raise click.ClickException(
            f"not there, or not dead: {', '.join(map(str, sorted(missing)))}; `redirect-worker effects list` shows them"
        )
