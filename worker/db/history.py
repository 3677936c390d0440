"""What was: the redirects that are kept, and what people ask about one conversation."""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from worker.db import rejected
from worker.db.session import translated
from worker.db.side_effects import LOST
from worker.policy import POLICIES

# Small slices: no long transaction, no lock that anybody waits for.
SLICE = 1000
# Seconds per run: it holds one process of the worker.
BUDGET = 5.0

_PRUNE = text("""
    DELETE FROM redirects WHERE event_id IN (
        SELECT event_id FROM redirects WHERE received_at < now() - make_interval(days => :days)
        ORDER BY received_at LIMIT :slice FOR UPDATE SKIP LOCKED)
""")
_STATE = text("SELECT * FROM conversation_states WHERE conversation_id = :id AND version > 0")
_RECORD = text("SELECT * FROM conversations WHERE id = :id")
_EFFECTS = text("""
    SELECT kind, state, failures, due_at, last_error, created_at FROM side_effects
    WHERE :id = ANY(conversation_ids) ORDER BY id
""")
_REDIRECTS = text(
    "SELECT * FROM redirects WHERE conversation_id = :id ORDER BY received_at DESC, event_id LIMIT :limit"
)
_OWNER = text("SELECT owner_id FROM conversation_states WHERE conversation_id = :id AND version > 0")
# `body` only as far as a glance goes: what was refused may be 16 MiB.
_TIMELINE = text("""
    WITH asked AS (
        SELECT event_id AS id, r.*, CAST(NULL AS text) AS error, CAST(NULL AS text) AS body FROM redirects r
        WHERE conversation_id = :id
        AND (CAST(:at AS timestamptz) IS NULL OR (received_at, event_id) < (:at, :last))
        ORDER BY received_at DESC, event_id DESC LIMIT :limit
    ), refused AS (
        SELECT CAST(id AS text) AS id, received_at, code, error, source,
            CASE WHEN octet_length(body) <= :glance THEN body END AS body
        FROM rejected_events WHERE conversation_id = :id
        AND (CAST(:at AS timestamptz) IS NULL OR (received_at, CAST(id AS text)) < (:at, :last))
        ORDER BY received_at DESC, CAST(id AS text) DESC LIMIT :limit
    )
    SELECT id, event_id, destination, outcome, code, error, version, previous_status, status, owner_id, source, actor,
        reason, metadata, occurred_at, received_at, body FROM asked
    UNION ALL
    SELECT id, NULL, NULL, 'rejected', code, error, NULL, NULL, NULL, NULL, source, NULL, NULL, NULL, NULL,
        received_at, body FROM refused
    ORDER BY received_at DESC, id DESC LIMIT :limit
""")


def prune(engine: Engine, days: int) -> tuple[int, bool]:
    """Delete redirects older than `days`; returns how many, and whether the time was up before they were all gone."""
    total, deadline = 0, time.monotonic() + BUDGET
    while time.monotonic() < deadline:
        with translated(), engine.begin() as connection:
            pruned = connection.execute(_PRUNE, {"days": days, "slice": SLICE}).rowcount
        total += pruned
        if pruned < SLICE:
            return total, False
    return total, True


def conversation(engine: Engine, conversation_id: str, limit: int = 50) -> dict[str, Any] | None:
    """State, record, side effects that are behind, and the newest redirects of one conversation; None if unknown."""
    values = {"id": conversation_id, "limit": limit}
    with translated(), engine.connect() as connection:
        state = connection.execute(_STATE, values).mappings().first()
        if state is None:
            return None
        record = connection.execute(_RECORD, values).mappings().first()
        effects = [dict(row) for row in connection.execute(_EFFECTS, values).mappings()]
        return {
            "state": dict(state),
            "copies": copies(effects),
            "record": dict(record) if record else None,
            "side_effects": effects,
            "redirects": [dict(row) for row in connection.execute(_REDIRECTS, values).mappings()],
        }


def owner(engine: Engine, conversation_id: str) -> dict[str, Any] | None:
    """The `owner_id` of a conversation; None if nothing was ever applied."""
    with translated(), engine.connect() as connection:
        found = connection.execute(_OWNER, {"id": conversation_id}).mappings().first()
    return dict(found) if found else None


def timeline(
    engine: Engine, conversation_id: str, after: tuple[datetime, str] | None, limit: int
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The `owner_id` of a conversation (None if nothing was ever applied), and what was asked of it, the newest first:
    the redirects, and what was refused. `after` is the `received_at` and `id` of the last one of the page before.
    """
    at, last = after or (None, None)
    values = {"id": conversation_id, "at": at, "last": last, "limit": limit, "glance": rejected.GLANCE}
    with translated(), engine.connect() as connection:
        owner = connection.execute(_OWNER, values).mappings().first()
        rows = [_told(dict(row), conversation_id) for row in connection.execute(_TIMELINE, values).mappings()]
    return dict(owner) if owner else None, rows


def _told(row: dict[str, Any], conversation_id: str) -> dict[str, Any]:
    """What was refused, as far as its body can be read."""
    body = row.pop("body")
    fields = rejected.fields(body) if body else {}
    told = {name: fields.get(name) for name in ("event_id", "destination", "reason")}
    return row | {name: said for name, said in told.items() if said} | {"conversation_id": conversation_id}


def copies(effects: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each copy stands, by the side effects that name its conversation: none says that it is up to date."""
    found: dict[str, dict[str, Any]] = {kind: {"status": "up_to_date"} for kind in POLICIES}
    # The dead come last, and stay.
    for row in sorted(effects, key=lambda row: (row["state"] == "dead", row["failures"])):
        found[row["kind"]] = {
            "status": _standing(row),
            "since": row["created_at"],
            "due_at": row["due_at"] if row["state"] == "waiting" else None,
            "failures": row["failures"],
            "error": row["last_error"],
        }
    return found


def _standing(row: Mapping[str, Any]) -> str:
    if row["state"] == "dead":
        return "dead"
    first = row["failures"] == 0 or (row["failures"] == 1 and row["last_error"] == LOST)
    return "behind" if first else "retrying"
