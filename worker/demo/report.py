"""What the demo prints."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from worker.copies import Copies, disagreements
from worker.db.side_effects import LOST

WIDTH = 110
COLOURS = {"applied": "green", "noop": "blue", "superseded": "yellow", "rejected": "red"}
MEANINGS = {
    "applied": "the conversation moved, its version grew by one",
    "noop": "it was there already",
    "superseded": "older than the decision that holds: recorded, changes nothing",
}


def title(words: str) -> None:
    click.echo()
    click.secho(words, bold=True)


def note(words: str) -> None:
    click.echo(f"   {words}")


def outcomes(rows: Sequence[Mapping[str, Any]]) -> None:
    click.echo()
    for row in rows:
        click.echo(f"   {_coloured(row['outcome'])} {row['events']:3}  {MEANINGS[row['outcome']]}")


def rejected(rows: Sequence[Mapping[str, Any]]) -> None:
    click.echo(f"   {_coloured('rejected')} {len(rows):3}  can never be applied: kept whole, with the reason")
    click.echo()
    for row in rows:
        lines = textwrap.wrap(f"{row['code']}: {row['error']}", WIDTH - 6, subsequent_indent="   ")
        click.echo(textwrap.indent("\n".join(lines), "   ").replace(row["code"], click.style(row["code"], fg="red"), 1))
        click.secho(f"      {_cut(row['body'], WIDTH - 6)}", dim=True)


def conversation(
    copies: Copies, versions: Sequence[int], redirects: Sequence[Mapping[str, Any]], again: Mapping[str, int]
) -> None:
    state = copies.state
    click.echo()
    click.secho(f"   {state['conversation_id']}", bold=True, nl=False)
    click.echo(f"  owner {state['owner_id'] or '-'}")
    click.echo(f"      state    {_owner(state)}, version {state['version']}")
    click.echo(f"      cache    {copies.cache}")
    record = copies.record
    click.echo(f"      record   {_owner(record)}, version {record['version']}" if record else "      record   none")
    click.echo(f"      browser  received version {', '.join(map(str, versions))}")
    for redirect in redirects:
        click.echo(f"      {_redirect(redirect, again.get(redirect['event_id'], 1))}")


def _owner(row: Mapping[str, Any]) -> str:
    return f"{row['destination']}, {row['status']}, AI {'answers' if row['ai_enabled'] else 'silent'}"


def _redirect(row: Mapping[str, Any], times: int) -> str:
    said = f"  {row['reason']}" if row["reason"] else ""
    repeated = f"  (sent {times} times, done once)" if times > 1 else ""
    decided = f"{row['occurred_at']:%H:%M:%S}"
    return f"{decided} {row['event_id']:12} -> {row['destination']:9} {_coloured(row['outcome'])}{repeated}{said}"


def stale(some: Sequence[Copies]) -> None:
    for each in some:
        state, good = each.state, not list(disagreements(each))
        mark = click.style("agree ", fg="green") if good else click.style("behind", fg="yellow")
        click.echo(f"   {mark} {state['conversation_id']:9} state: version {state['version']}, {_owner(state)}")
        click.echo(f"{'':20} cache: {each.cache}")


def attempts(waiting: Sequence[Mapping[str, Any]], told: set[str]) -> None:
    """One line for each attempt that has failed and was not told yet."""
    for row in waiting:
        line = f"{row['kind']} of {', '.join(row['conversation_ids'])}: attempt {row['failures']} failed"
        if row["failures"] and row["last_error"] != LOST and line not in told:
            told.add(line)
            failed = _cut(f"{line}: {row['last_error']}", WIDTH - 10)
            note(f"{click.style('retry ', fg='yellow')} {failed}")


def verdict(conversations: int, wrong: Sequence[str], seconds: float) -> None:
    for sentence in wrong:
        click.secho(f"   {sentence}", fg="red")
    if wrong:
        click.secho(f"   {len(wrong)} copies disagree with the truth", fg="red", bold=True)
        return
    agree = click.style("all agree", fg="green", bold=True)
    note(f"{conversations} conversations, {3 * conversations} copies (cache, record, browser): {agree}")
    note(f"in {seconds:.0f} s. Next: `make up` to try it by hand, `make test` to see it proved.")
    click.echo()


def _coloured(outcome: str) -> str:
    return click.style(f"{outcome:10}", fg=COLOURS[outcome])


def _cut(words: str, width: int) -> str:
    line = " ".join(words.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
