"""The pages against the code: what a reader is told is what happens."""

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import click
import pytest
from sqlalchemy import CheckConstraint, Table

from config.settings import Settings
from worker import redis_client
from worker.cli import main
from worker.db import models, side_effects
from worker.events import Actor, Event, parse
from worker.policy import POLICIES, Policy
from worker.redirects import fold
from worker.tasks import cache, websocket

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(name: str) -> str:
    return (ROOT / name).read_text()


def rows(page: str, *header: str) -> list[list[str]]:
    """The cells of the one table of the page with this header."""
    lines = iter(page.splitlines())
    tables: list[list[list[str]]] = []
    for line in lines:
        if cells(line) == list(header):
            next(lines)
            tables.append(list(iter(lambda: cells(next(lines, "")), [])))
    assert len(tables) == 1, f"{len(tables)} tables with the header {header}"
    return tables[0]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []


def bare(cell: str) -> str:
    return cell.strip("`")


def commands(page: str) -> str:
    """What a reader could copy: the code blocks, and the code within sentences."""
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", page))
    return "\n".join([*(block for _, block in FENCE.findall(page)), *inline])


def literals(table: Table, name: str) -> set[str]:
    """The texts that the CHECK of this name allows."""
    checks = (each for each in table.constraints if isinstance(each, CheckConstraint))
    check = next(each for each in checks if str(each.name) == f"{table.name}_{name}")
    return set(re.findall(r"'(\w+)'", str(check.sqltext)))


def policy(cell: Callable[[str], str]) -> Policy:
    """The policy that a line of the page tells."""
    parked = re.fullmatch(r"(\d+ \w+) doubling to (\d+ \w+), for (\d+ \w+)", cell("parked"))
    assert parked, cell("parked")
    quick, unit = cell("quick").rsplit(" ", 1)
    waits = tuple(float(wait) * SECONDS[unit] for wait in quick.split(", "))
    first, longest, total = map(seconds, parked.groups())
    given_up: Literal["dead", "done"] = "done" if bare(cell("then")) == "done" else "dead"
    assert bare(cell("then")) == given_up
    return Policy(bare(cell("task")), waits, first, longest, total, given_up)


def seconds(words: str) -> float:
    number, unit = words.split()
    return float(number) * SECONDS[unit]


def test_the_policy_table_is_the_policies() -> None:
    """Each kind with its task, every number of its schedule, its attempts, and what giving up means."""
    header = ["kind", "task", "quick", "parked", "attempts", "then"]
    told = [dict(zip(header, row, strict=True)) for row in rows(read("docs/effects.md"), *header)]
    assert {bare(row["kind"]): policy(row.__getitem__) for row in told} == POLICIES
    attempts = {bare(row["kind"]): int(row["attempts"]) for row in told}
    assert attempts == {kind: len(policy.steps) + 1 for kind, policy in POLICIES.items()}


def test_the_states_are_those_of_the_table() -> None:
    """The page names each state that a row can have, and no other; a state without a row is told as such."""
    header = ["state", "`state`", "`failures`", "`last_error`", "`due_at`"]
    told = {row[0]: row[1] for row in rows(read("docs/effects.md"), *header)}
    assert {bare(state) for state in told.values()} - {"no row"} == literals(models.side_effects, "state")
    assert {name for name, state in told.items() if state == "no row"} == {"gone"}


def alternatives(cell: str) -> list[str]:
    """The states in "retrying or parked" or in "unclaimed, or gone"."""
    return re.split(", or |, | or ", cell)


def test_the_transitions_are_between_the_states() -> None:
    """Every transition starts and ends in a state of the table, and every state but the first is reached."""
    page = read("docs/effects.md")
    states = {row[0] for row in rows(page, "state", "`state`", "`failures`", "`last_error`", "`due_at`")}
    transitions = rows(page, "from", "to", "who", "when")
    assert {state for row in transitions for state in alternatives(row[0])} == states - {"gone"} | {"no row"}
    assert {state for row in transitions for state in alternatives(row[1])} == states


def test_the_numbers_of_the_effects_are_the_codes() -> None:
    """Each number of the page is the value of the constant that it names."""
    for what, value, where in rows(read("docs/effects.md"), "number", "value", "where"):
        module, _, name = bare(where).rpartition(".")
        assert float(value) == getattr(importlib.import_module(module), name), what


def test_the_reason_of_a_begun_row_is_as_told() -> None:
    """Whoever looks at the table finds the words of the page."""
    assert side_effects.LOST.startswith("begun and not reported back")
    assert "begun and not reported back" in read("docs/effects.md")


def settings() -> Iterator[tuple[str, str]]:
    """Each setting's name in the environment, and its default as the page writes it."""
    for name, field in Settings.model_fields.items():
        default = field.default
        written = ", ".join(f"`{value}`" for value in default) if isinstance(default, dict) else f"`{default}`"
        yield str(field.validation_alias or f"REDIRECT_{name.upper()}"), "not set" if default is None else written


def test_the_settings_table_is_the_settings() -> None:
    """Every setting with its name in the environment and its default, in the order of the code."""
    told = [(bare(name), default) for name, default, _ in rows(read("README.md"), "name", "default", "meaning")]
    assert told == list(settings())


@every_page
def test_every_command_that_is_named_exists(page: Path) -> None:
    """Make targets, and commands of redirect-worker with their options."""
    text = commands(page.read_text())
    targets = set(re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"\bmake (?:\w+=\S+ )?([a-z]+)", text)) <= targets
    for name, rest in re.findall(r"\bredirect-worker ([a-z]+)([^\n]*)", text):
        assert name in main.commands
        known = {option for parameter in parameters(main.commands[name]) for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known


def parameters(command: click.Command) -> list[click.Parameter]:
    """Its own, and those of the commands under it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [*command.params, *(parameter for each in below for parameter in each.params)]


@every_page
def test_every_variable_that_is_named_exists(page: Path) -> None:
    """A variable of this service is a setting."""
    assert set(re.findall(r"\bREDIRECT_[A-Z_]+\b", page.read_text())) <= {name for name, _ in settings()}


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@every_page
def test_every_relative_link_resolves(page: Path) -> None:
    """The file is there, and so is the heading that the link names."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)), link


@every_page
def test_every_path_that_is_named_exists(page: Path) -> None:
    """A file, a folder, or a test within a file."""
    named = re.findall(r"`((?:worker|config|tests|docs|examples)/[\w./]*)(?:::(\w+))?`", page.read_text())
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in read(path), test


def example(section: str) -> Any:
    """The first JSON example of this section of the contract."""
    text = read("docs/contract.md").split(f"\n## {section}\n", 1)[1]
    return json.loads(next(block for language, block in FENCE.findall(text) if language == "json"))


def test_the_event_is_as_told() -> None:
    """The example is an event with every field, and the table has each field and whether it is required."""
    assert parse(example("The event"), {"billing"}).model_fields_set == set(Event.model_fields)
    told = {bare(row[0]): row[1] == "yes" for row in rows(read("docs/contract.md"), "field", "required", "what it is")}
    assert told == {name: field.is_required() for name, field in Event.model_fields.items()}
    actors = {f"`{actor}`" for actor in get_args(Actor.model_fields["type"].annotation)}
    assert all(actor in read("docs/contract.md") for actor in actors)


def test_the_copies_are_as_told() -> None:
    """The event of the contract makes the cache value and the live frame of the contract, field by field."""
    event = parse(example("The event"), {"billing"})
    assert event.occurred_at is not None
    state, _ = fold(None, event, event.occurred_at)
    assert json.loads(cache.value(state)) == example("The cache key")
    assert json.loads(websocket.frame(state)) == example("The live frame")
    assert f"`{redis_client.key('<conversation_id>')}`" in read("docs/contract.md")
    assert f"`{websocket.channel('<owner_id>')}`" in read("docs/contract.md")
    assert f"`{websocket.channel(None)}`" in read("docs/contract.md")


def test_the_outcomes_are_as_told() -> None:
    """The outcomes are those that the ledger can hold, and rejected; each code is one that the code gives."""
    told = rows(read("docs/contract.md"), "outcome", "code", "what happened")
    assert {bare(row[0]) for row in told} == literals(models.redirects, "outcome") | {"rejected"}
    codes = {bare(row[1]) for row in told} - {"none"}
    source = "\n".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    assert {code for code in codes if f'"{code}"' not in source} == set()
    assert set(re.findall(r'Rejected\(\s*"(\w+)"', source)) <= codes


def test_the_tables_are_as_told() -> None:
    """Each table and its columns, in their order."""
    told = {bare(name): columns for name, columns in rows(read("docs/contract.md"), "table", "columns")}
    tables: Mapping[str, Table] = models.metadata.tables
    assert told == {name: ", ".join(f"`{each.name}`" for each in table.columns) for name, table in tables.items()}


def test_the_addresses_are_as_told() -> None:
    """What the gateway answers under, its own description aside."""
    from worker.gateway.app import app

    told = {bare(row[0]) for row in rows(read("docs/contract.md"), "address", "answer")}
    routes = [
        one for route in app.routes for one in getattr(getattr(route, "original_router", None), "routes", [route])
    ]
    served = {str(getattr(route, "path", "")).replace(":text}", "}") for route in routes}
    assert told == served - {"/docs", "/docs/oauth2-redirect", "/openapi.json"}


def test_every_action_of_the_logs_is_told() -> None:
    """Each that the code writes has its row, and no row is of one that nobody writes."""
    told = {
        name for row in rows(read("docs/logs.md"), "action", "level", "process", "it means") for name in named(row[0])
    }
    sources = [path.read_text() for path in (ROOT / "worker").rglob("*.py")]
    written = {name for source in sources for name in re.findall(r'action="([a-z_]+)"', source)}
    written |= {f"redirect_{outcome}" for outcome in ("applied", "noop", "superseded")}
    written |= {"effect_retry", "effect_dead", *(f"demo_reply_{state}" for state in ("sent", "discarded"))}
    assert told == written


def named(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`(\w+)`", cell)
