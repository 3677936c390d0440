"""What must be true when a run is over; one failure ends the benchmark."""

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.systems import Stage

_COPIES = """
    SELECT s.conversation_id, s.status, s.ai_enabled, s.destination, s.version,
           c.status, c.ai_enabled, c.destination, c.version
    FROM conversation_states s LEFT JOIN conversations c ON c.id = s.conversation_id ORDER BY s.conversation_id
"""
_GAPS = """
    SELECT s.conversation_id FROM conversation_states s JOIN redirects r USING (conversation_id)
    GROUP BY s.conversation_id, s.version
    HAVING count(DISTINCT r.version) FILTER (WHERE r.outcome = 'applied') <> s.version
        OR count(*) FILTER (WHERE r.outcome = 'applied') <> s.version
        OR min(r.version) FILTER (WHERE r.outcome = 'applied') <> 1
        OR max(r.version) FILTER (WHERE r.outcome = 'applied') <> s.version
"""
CHUNK = 1000


class CheckFailed(AssertionError):
    """An event is not accounted for, or a copy does not show the truth."""


def check_copies(stage: Stage) -> None:
    """Raise CheckFailed unless cache and record of every conversation equal its state."""
    rows = stage.database.rows(_COPIES)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        keys = [f"ai_control_{row[0]}" for row in part]
        cached: Any = stage.cache.mget(keys)
        for wrong in _disagreements(part, cached):
            raise CheckFailed(wrong)


def _disagreements(rows: list[tuple[Any, ...]], cached: list[bytes | None]) -> Iterator[str]:
    for (conversation_id, *columns), copy in zip(rows, cached, strict=True):
        truth, record = columns[:4], columns[4:]
        shown = json.loads(copy) if copy else {}
        if record != truth:
            yield f"the record of {conversation_id} shows {record}, should be {truth}"
        if [shown.get(name) for name in ("status", "ai_enabled", "destination", "version")] != truth:
            yield f"the cache of {conversation_id} shows {shown}, should be {truth}"


def check_ours(stage: Stage, sent: int) -> dict[str, int]:
    """The ledger holds each event once, versions have no gap, nothing is behind, copies equal the truth."""
    outcomes: dict[str, int] = dict(stage.database.rows("SELECT outcome, count(*) FROM redirects GROUP BY outcome"))
    outcomes["rejected"] = stage.database.value("SELECT count(*) FROM rejected_events")
    if sum(outcomes.values()) != sent:
        raise CheckFailed(f"{sent} events were sent, {outcomes} are accounted for")
    if behind := stage.database.rows("SELECT kind, state, last_error FROM side_effects LIMIT 3"):
        raise CheckFailed(f"side effects are left: {behind}")
    if gaps := stage.database.rows(_GAPS):
        raise CheckFailed(f"versions with gaps: {gaps[:3]}")
    check_copies(stage)
    return outcomes


def check_peer(stage: Stage, sent: int) -> dict[str, int]:
    """Each event moved its conversation once, each was announced, copies equal the truth."""
    moved = stage.database.value("SELECT sum(version) FROM conversation_states")
    frames = stage.commands("publish")
    if moved != sent or frames < sent:
        raise CheckFailed(f"{sent} events were sent, {moved} were applied, {frames} frames were published")
    check_copies(stage)
    return {"applied": int(moved)}
