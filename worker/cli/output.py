"""How every command prints: for a person, or as JSON."""

import json
from typing import Any

import click

from config.hiding import hide

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_(as_json: bool, data: Any, text: str) -> None:
    click.echo(json.dumps(data, default=str, ensure_ascii=False) if as_json else text)


def first_line(error: object) -> str:
    return hide((str(error).strip() or type(error).__name__).splitlines()[0])
