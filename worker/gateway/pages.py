"""What the database knows, as the live channel tells it: the snapshot, older pages, and what was missed."""

import base64
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import orjson

from worker.db import inbox, rejected
from worker.db.inbox import Place, Wanted
from worker.db.session import engine
from worker.gateway.bounded import ask
from worker.gateway.feed import BACKLOG, Frame, Snapshot
from worker.gateway.views import View
from worker.hosts import bundled
from worker.redirects import State

# Apart from the reads: when all sockets want a snapshot, those still find a thread.
_threads = ThreadPoolExecutor(2, thread_name_prefix="snapshot")


async def snapshot(view: View) -> Snapshot:
    """The newest conversations of `view`. Raises Transient."""
    rows = await _read(wanted(view), None)
    versions = {row["conversation_id"]: row["version"] for row in rows[:BACKLOG]}
    return Snapshot(_text("snapshot", rows), versions)


async def older(view: View, after: str) -> str:
    """The page behind `after`. Raises ValueError when that is no `next` of ours, and Transient."""
    return _text("page", await _read(wanted(view), place(after)))


async def missed(seconds: float, limit: int) -> Sequence[Frame]:
    """A frame for each conversation that moved in the last `seconds`, the newest first. Raises Transient."""
    rows = await ask(lambda: inbox.newest(engine(), Wanted(within=seconds), None, limit), _threads)
    states = [_state(row) for row in rows]
    return [Frame(one.conversation_id, one.owner_id, one.version, bundled.frame(one)) for one in states]


def wanted(view: View) -> Wanted:
    return Wanted(owner_ids=view.owner_ids, conversation_ids=view.conversation_ids)


def check(view: View) -> None:
    """Raises ValueError for names that no text in PostgreSQL holds."""
    for name in (*(view.owner_ids or ()), *(view.conversation_ids or ())):
        if not rejected.holdable(name):
            raise ValueError("names should be text without NUL")


def cursor(last: Mapping[str, Any], moment: str = "updated_at", name: str = "conversation_id") -> str:
    """What asks for the page behind the row `last`."""
    ended = json.dumps([last[moment].isoformat(), last[name]])
    return base64.urlsafe_b64encode(ended.encode()).decode()


def place(after: str) -> Place:
    """What `cursor` wrote. Raises ValueError for anything else."""
    try:
        at, conversation_id = json.loads(base64.urlsafe_b64decode(after.encode("ascii")))
        found = Place(datetime.fromisoformat(at), conversation_id.encode().decode())
    except (ValueError, TypeError, AttributeError, RecursionError):
        found = None
    if found is None or found.updated_at.tzinfo is None or "\x00" in found.conversation_id:
        raise ValueError("`after` should be the `next` of a page")
    return found


async def _read(narrowed: Wanted, after: Place | None) -> list[dict[str, Any]]:
    """One more than a page has: then there is a next one."""
    return await ask(lambda: inbox.newest(engine(), narrowed, after, BACKLOG + 1), _threads)


def _text(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    page: dict[str, object] = {"type": kind, "conversations": [_state(row).as_dict() for row in rows[:BACKLOG]]}
    if len(rows) > BACKLOG:
        page["next"] = cursor(rows[BACKLOG - 1])
    return orjson.dumps(page).decode()


def _state(row: Mapping[str, Any]) -> State:
    return State(**{name: row[name] for name in State.__slots__})
