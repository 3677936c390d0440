"""How far the comparison of copies with the truth has come, and the truth it is made with."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, text

from worker.db.session import single_statements, translated
from worker.redirects import State

# Conversations in one filed row, as in the ledger: one pipeline writes a few hundred with ease.
GROUP = 200
# Rows that wait: with more than that behind, healing is what is needed, not a search for more.
BUSY = 500

_LOCK = text("SELECT pg_try_advisory_lock(hashtext('reconcile_conversations'))")
_UNLOCK = text("SELECT pg_advisory_unlock_all()")
_LOAD = text("SELECT marker, after, whole, recent, pending, clock_timestamp() AS clock FROM reconciliation")
_SAVE = text(
    "UPDATE reconciliation SET marker = :marker, after = :after, whole = :whole, recent = :recent, pending = :pending"
)
_WAITING = text("SELECT count(*) FROM (SELECT FROM side_effects WHERE state = 'waiting' LIMIT :most) AS counted")
_LEFT = text("SELECT id FROM side_effects WHERE id = ANY(:ids)")
# What is behind in the same snapshot as the states: of every other conversation, the copies were written before it.
_SLICE = """
    WITH slice AS MATERIALIZED (
        SELECT conversation_id, owner_id, destination, version, occurred_at, event_id FROM conversation_states
        WHERE version > 0 AND {which}
    ), named AS MATERIALIZED (
        SELECT e.kind, conversation_id FROM side_effects e, unnest(e.conversation_ids) AS conversation_id
        WHERE e.conversation_ids && (SELECT array_agg(conversation_id) FROM slice)
    )
    SELECT slice.*, ARRAY(SELECT kind FROM named WHERE named.conversation_id = slice.conversation_id) AS behind
    FROM slice ORDER BY conversation_id
"""
_AFTER = text(_SLICE.format(which="conversation_id > :after ORDER BY conversation_id LIMIT :limit"))
_NAMED = text(_SLICE.format(which="conversation_id = ANY(:ids)"))
_MOVED = text("""
    SELECT array_agg(DISTINCT conversation_id) AS ids, max(received_at) AS until, count(*) AS number FROM (
        SELECT conversation_id, received_at FROM redirects
        WHERE received_at > :since AND received_at < now() - interval '30 seconds' ORDER BY received_at LIMIT :limit
    ) AS lately
""")
_RAISE = text("""
    WITH shown AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:versions AS bigint[])) AS shown (conversation_id, version)
    ), held AS MATERIALIZED (
        SELECT conversation_id FROM conversation_states WHERE conversation_id = ANY(:ids)
        ORDER BY conversation_id FOR UPDATE
    )
    UPDATE conversation_states s SET version = shown.version + 1, updated_at = now()
    FROM shown JOIN held USING (conversation_id)
    WHERE s.conversation_id = shown.conversation_id AND s.version <= shown.version
""")
_FILE = text("""
    INSERT INTO side_effects (kind, conversation_ids)
    SELECT :kind, array_agg(id ORDER BY id) FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS given (id, position)
    GROUP BY (position - 1) / :group RETURNING id, cardinality(conversation_ids) AS copies
""")


@dataclass
class Progress:
    """`marker` is what Redis should know; `after` the last conversation compared; `whole` says that all have to be, at
    once; `recent` is up to when what moved is compared; `pending` are the filed rows (id to kind and copies).
    """

    marker: int
    after: str
    whole: bool
    recent: datetime
    pending: dict[str, tuple[str, int]]
    clock: datetime


@dataclass(frozen=True)
class Slice:
    """Some states, ordered by id, and the kinds that are behind of each: nothing is known of those copies."""

    states: Sequence[State] = ()
    behind: Mapping[str, Collection[str]] = field(default_factory=dict)

    def settled(self, kind: str) -> list[State]:
        """Those whose copy of this kind should be there."""
        return [state for state in self.states if kind not in self.behind[state.conversation_id]]


@contextmanager
def alone(engine: Engine) -> Iterator[Connection | None]:
    """A connection on which each statement is its own transaction, and nobody else compares; None if somebody does."""
    with translated(), single_statements(engine) as connection:
        if not connection.execute(_LOCK).scalar():
            yield None
            return
        try:
            yield connection
        finally:
            if not connection.invalidated:
                connection.execute(_UNLOCK)


def load(connection: Connection) -> Progress:
    row = connection.execute(_LOAD).one()
    pending = {id_: (kind, int(copies)) for id_, (kind, copies) in row.pending.items()}
    return Progress(row.marker, row.after, row.whole, row.recent, pending, row.clock)


def save(connection: Connection, progress: Progress) -> None:
    values = {name: getattr(progress, name) for name in ("marker", "after", "whole", "recent")}
    connection.execute(_SAVE, values | {"pending": orjson.dumps(progress.pending).decode()})


def busy(connection: Connection) -> bool:
    return bool(connection.execute(_WAITING, {"most": BUSY}).scalar_one() >= BUSY)


def left(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those of the filed rows that are still there."""
    found = connection.execute(_LEFT, {"ids": [int(each) for each in ids]}).scalars() if ids else ()
    return {str(each) for each in found}


def following(connection: Connection, after: str, limit: int) -> Slice:
    """The next conversations by id."""
    return _slice(connection.execute(_AFTER, {"after": after, "limit": limit}).mappings())


def these(connection: Connection, ids: Collection[str]) -> Slice:
    return _slice(connection.execute(_NAMED, {"ids": list(ids)}).mappings())


def moved(connection: Connection, since: datetime, limit: int) -> tuple[Slice, datetime]:
    """Conversations that moved after `since`; until when they are all of them."""
    row = connection.execute(_MOVED, {"since": since, "limit": limit}).one()
    if not row.number:
        return Slice(), since
    return these(connection, row.ids), row.until


def raise_above(connection: Connection, versions: Mapping[str, int]) -> None:
    """Give these states a version above the one that a copy of each shows, so that the truth is newer than all copies.

    Only a database that was restored, or a copy that somebody has changed, is behind its copies.
    """
    ids = sorted(versions)
    connection.execute(_RAISE, {"ids": ids, "versions": [versions[id_] for id_ in ids]})


def file(connection: Connection, kind: str, ids: Collection[str]) -> dict[str, tuple[str, int]]:
    """File side effects for these copies, due now; the rows, as in `Progress.pending`."""
    rows: Any = connection.execute(_FILE, {"kind": kind, "ids": sorted(ids), "group": GROUP})
    return {str(row.id): (kind, row.copies) for row in rows}


def _slice(rows: Any) -> Slice:
    found = [dict(row) for row in rows]
    behind = {row["conversation_id"]: row.pop("behind") for row in found}
    return Slice([State(**row) for row in found], behind)
