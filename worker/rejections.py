"""Rejected events, for a person: which there are, and what one of them is."""

import json
import shutil
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from worker.db import rejected
from worker.db.rejected import COUNTED
from worker.errors import Permanent, Rejected
from worker.resubmit import events_in, fields_of, plain, raw_of, short

# Columns where the output is no terminal: nothing is cut that a program or a file could hold.
WIDE = 10_000
# Characters of the names in a list: two ids of ordinary length.
NAMES = 60
_HEADER = ("id", "received_at", "code", "source", "conversation/event", "error")


def listed(engine: Engine, code: str | None, limit: int) -> dict[str, Any]:
    """The newest rejected events, and how many more there are (at most COUNTED)."""
    rows, more = rejected.newest(engine, code, limit)
    return {"rejected": [_named(row) for row in rows], "more": more}


def _named(row: dict[str, Any]) -> dict[str, Any]:
    body = row.pop("body") or ""
    try:
        raws = events_in(body)
    except Rejected:
        raws = []
    fields = fields_of(raws[0] if len(raws) == 1 else body)
    return row | {name: fields.get(name) for name in ("conversation_id", "event_id")} | {"events": len(raws)}


def list_page(found: Mapping[str, Any]) -> str:
    width = shutil.get_terminal_size((WIDE, 0)).columns
    rows = [_HEADER, *map(_cells, found["rejected"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = [_cut("  ".join([*map(str.ljust, row, widths), row[-1]]), width) for row in rows]
    if more := found["more"]:
        lines.append(f"{'at least ' if more == COUNTED else ''}{more} more: see them with --limit")
    return "\n".join(lines) if found["rejected"] else "nothing is rejected"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    names = [str(row[name]) for name in ("conversation_id", "event_id") if row[name] is not None]
    about = "/".join(names) or (f"{row['events']} events" if row["events"] > 1 else "-")
    cells = (f"{row['received_at']:%F %T}", row["code"], row["source"], _cut(about, NAMES), row["error"])
    return short(row["id"]), *(plain(cell) for cell in cells)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(width, 2) - 1] + "…"


def find(engine: Engine, prefix: str) -> UUID:
    """The id that begins with `prefix`, as git finds a commit. Raises Permanent when that is none, or several."""
    digits = prefix.replace("-", "").lower()
    if not 0 < len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise Permanent(f"{prefix!r} should be the id of a rejected event, or its first characters")
    found = rejected.between(engine, UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))
    if len(found) > 1:
        raise Permanent(f"{prefix!r} begins more than one id: {', '.join(map(str, found))}")
    if not found:
        raise Permanent(f"no rejected event has the id {prefix!r}: `redirect-worker rejected list` shows them")
    return found[0]


def look(engine: Engine, prefix: str) -> dict[str, Any]:
    """The whole row whose id begins with `prefix`. Raises Permanent as `find` does."""
    found = rejected.one(engine, find(engine, prefix))
    if found is None:
        raise Permanent(f"{prefix!r} was taken away just now")
    return found


def page(found: Mapping[str, Any]) -> str:
    names = ("id", "received_at", "source", "code", "error")
    return "\n".join([*(f"{name:12} {plain(str(found[name]))}" for name in names), "", _body(found["body"])])


def _body(body: str) -> str:
    if isinstance(raw := raw_of(body), bytes):
        return f"{len(raw)} bytes that are no text, as a data: URL:\n{plain(body)}"
    try:
        return plain(json.dumps(json.loads(body), indent=2, ensure_ascii=False), but="\n")
    except (ValueError, RecursionError):
        return plain(body, but="\n\t")
