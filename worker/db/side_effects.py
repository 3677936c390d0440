"""The side effects that are behind: claimed with the failure written ahead, erased by success.

A claim commits the attempt as if it had failed: one failure more, due again at the policy's next step. Success deletes
the row. So a process that dies in between has already told everything, and no lease is left to expire.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text

from worker.db.session import single_statements, translated
from worker.policy import Policy
from worker.redirects import State

LOST = "begun and not reported back: it is being written now, or its process died"
# The last attempt has no next step to be due at; if it dies, this is how soon the row is looked at and given up.
LAST_LOOK = 60.0
# Characters: an error is a reason for a person, not an archive.
ERROR_LENGTH = 1000

_ALONE = text("SELECT pg_try_advisory_lock(hashtext('side_effects'), hashtext(:kind))")
_RELEASE = text("SELECT pg_advisory_unlock(hashtext('side_effects'), hashtext(:kind))")
_DUE = text("""
    SELECT kind FROM unnest(CAST(:kinds AS text[])) AS kind WHERE EXISTS (
        SELECT FROM side_effects e WHERE e.kind = kind.kind AND e.state = 'waiting' AND e.due_at <= now())
""")
_UNHEARD = text("""
    SELECT kind FROM unnest(CAST(:kinds AS text[])) AS kind WHERE NOT EXISTS (
        SELECT FROM side_effects e WHERE e.kind = kind.kind AND e.state = 'waiting' AND e.failures = 0 AND e.id < :mine
        AND e.due_at BETWEEN now() - make_interval(secs => :window) AND now())
""")
# MATERIALIZED, or the planner may run the locking select again for every row it joins.
_CLAIM = text("""
    WITH due AS MATERIALIZED (
        SELECT id FROM side_effects
        WHERE kind = :kind AND state = 'waiting' AND due_at <= now()
            AND (last_error IS NOT DISTINCT FROM :lost) = :crashed
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE side_effects e
    SET failures = failures + 1, last_error = :lost, updated_at = now(),
        due_at = now() + make_interval(secs =>
            coalesce((CAST(:steps AS float8[]))[failures + 1], :last_look) * (1 + :jitter * random()))
    FROM due WHERE e.id = due.id
    RETURNING e.id, e.conversation_ids, e.failures, extract(epoch FROM e.due_at - now())::float8 AS due_in
""")
_STATES = text("""
    SELECT conversation_id, owner_id, destination, version, occurred_at, event_id FROM conversation_states
    WHERE conversation_id = ANY(:ids) AND version > 0 ORDER BY conversation_id
""")
_DONE = text("DELETE FROM side_effects WHERE id = ANY(:ids)")
_ANY_DEAD = text("SELECT EXISTS (SELECT FROM side_effects WHERE kind = :kind AND state = 'dead')")
# Each dead row is unnested once and joined: to compare arrays costs rows times conversations written, and the 20,000 of
# a large round ran into the statement timeout. The last `state` is for a person who brings the row back meanwhile.
_OVERTAKEN = text("""
    WITH written AS MATERIALIZED (
        SELECT unnest(CAST(:written AS text[])) AS conversation_id
    ), hit AS MATERIALIZED (
        SELECT DISTINCT e.id FROM side_effects e, unnest(e.conversation_ids) AS conversation_id
        JOIN written USING (conversation_id) WHERE e.kind = :kind AND e.state = 'dead'
    ), overtaken AS MATERIALIZED (
        SELECT e.id, array_agg(n.conversation_id ORDER BY position) FILTER (WHERE w IS NULL) AS remaining
        FROM hit JOIN side_effects e USING (id),
            unnest(e.conversation_ids) WITH ORDINALITY AS n (conversation_id, position)
            LEFT JOIN written w USING (conversation_id)
        GROUP BY e.id
    ), gone AS (
        DELETE FROM side_effects e USING overtaken o WHERE e.id = o.id AND remaining IS NULL AND e.state = 'dead'
    )
    UPDATE side_effects e SET conversation_ids = remaining
    FROM overtaken o WHERE e.id = o.id AND remaining IS NOT NULL AND e.state = 'dead'
""")
# A later claim of the same row knows better than a settlement that comes late: hence the count.
_FAILED = text("""
    WITH shrunk AS (
        UPDATE side_effects e
        SET conversation_ids = n.conversation_ids, state = n.state, last_error = n.last_error, updated_at = now()
        FROM json_populate_recordset(null::side_effects, CAST(:first AS json)) n
        WHERE e.id = n.id AND e.failures = n.failures
    )
    INSERT INTO side_effects (kind, conversation_ids, state, failures, due_at, last_error, created_at)
    SELECT e.kind, n.conversation_ids, n.state, e.failures, e.due_at, n.last_error, e.created_at
    FROM json_populate_recordset(null::side_effects, CAST(:others AS json)) n JOIN side_effects e USING (id, failures)
""")
# The other half waits for its turn as it did before this attempt, which is not its own.
_HALVE = text("""
    WITH halved AS (
        UPDATE side_effects SET conversation_ids = :first WHERE id = :id RETURNING kind, failures, created_at
    )
    INSERT INTO side_effects (kind, conversation_ids, failures, last_error, created_at)
    SELECT kind, :second, failures - 1, :lost, created_at FROM halved
""")
_BEHIND = text("""
    SELECT DISTINCT behind FROM side_effects e, unnest(e.conversation_ids) AS behind
    WHERE e.conversation_ids && CAST(:ids AS text[]) AND behind = ANY(:ids)
""")


@dataclass(frozen=True, slots=True)
class Claimed:
    """A side effect in hand. `failures` counts this attempt; `due_in` is seconds until it is due again if it fails."""

    id: int
    conversation_ids: list[str]
    failures: int
    due_in: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The part of a claimed row that failed together, why, and whether a schedule tries it again."""

    row: Claimed
    conversation_ids: list[str]
    error: str
    dead: bool


@contextmanager
def alone(engine: Engine, kind: str) -> Iterator[Connection | None]:
    """A connection that holds `kind` for itself until the block ends; None when another process has it.

    One writer per kind: a copy that hangs costs one process, whatever the number of rings. PostgreSQL frees the kind
    the moment its holder dies, because the lock belongs to the connection.
    """
    with translated(), single_statements(engine) as connection:
        if not connection.scalar(_ALONE, {"kind": kind}):
            yield None
            return
        connection.commit()  # for SQLAlchemy, which counts transactions here too; it asks the database nothing
        try:
            yield connection
        finally:
            _release(connection, kind)


def _release(connection: Connection, kind: str) -> None:
    if connection.invalidated:
        return  # the lock went with it
    try:
        connection.rollback()
        connection.scalar(_RELEASE, {"kind": kind})
    except BaseException:
        connection.invalidate()  # a pooled connection must not keep the kind
        raise


def due(engine: Engine, kinds: Collection[str]) -> list[str]:
    """Those of `kinds` that have rows due now."""
    with translated(), single_statements(engine) as connection:
        return list(connection.scalars(_DUE, {"kinds": list(kinds)}))


def unheard(engine: Engine, kinds: Collection[str], filed: Collection[int], window: float) -> list[str]:
    """The kinds that need a ring for the rows `filed`: all but those where an older unclaimed row has one on its way.

    Asked after the commit, so whoever claims the older row sees ours too. `window` is seconds: past it a ring counts
    as lost.
    """
    with translated(), single_statements(engine) as connection:
        values = {"kinds": list(kinds), "mine": min(filed), "window": window}
        return list(connection.scalars(_UNHEARD, values))


def claim(connection: Connection, kind: str, policy: Policy, *, limit: int, jitter: float) -> list[Claimed]:
    """Up to `limit` due rows, the failure of this attempt already committed.

    Rows whose last attempt killed its process come one at a time, after all others, in halves: so that the one
    conversation that kills stands alone in the end and takes no other to its death.
    """
    values = {"kind": kind, "steps": list(policy.steps), "jitter": jitter, "lost": LOST, "last_look": LAST_LOOK}
    rows = _claim(connection, values | {"limit": limit, "crashed": False})
    return rows or [_halved(connection, row) for row in _claim(connection, values | {"limit": 1, "crashed": True})]


def _claim(connection: Connection, values: Mapping[str, Any]) -> list[Claimed]:
    with connection.begin():
        return [Claimed(*row) for row in connection.execute(_CLAIM, dict(values))]


def _halved(connection: Connection, row: Claimed) -> Claimed:
    middle = len(row.conversation_ids) // 2
    if middle == 0:
        return row
    first, second = row.conversation_ids[:middle], row.conversation_ids[middle:]
    with connection.begin():
        connection.execute(_HALVE, {"id": row.id, "first": first, "second": second, "lost": LOST})
    return Claimed(row.id, first, row.failures, row.due_in)


def states(connection: Connection, rows: Sequence[Claimed]) -> list[State]:
    """The present states of all conversations of `rows`, ordered by id."""
    ids = sorted({conversation_id for row in rows for conversation_id in row.conversation_ids})
    with connection.begin():
        return [State(*row) for row in connection.execute(_STATES, {"ids": ids})]


def settle(connection: Connection, done: Collection[int], failed: Sequence[Failure]) -> None:
    """Delete what is written; what failed stays with its reason, each reason a row with a schedule of its own."""
    first = {failure.row.id: failure for failure in reversed(failed)}
    others = [failure for failure in failed if first[failure.row.id] is not failure]
    with connection.begin():
        if done:
            connection.execute(_DONE, {"ids": list(done)})
        if first:
            connection.execute(_FAILED, {"first": _json(first.values()), "others": _json(others)})


def overtake(connection: Connection, kind: str, written: Collection[str]) -> None:
    """Forget what was dead of the conversations `written`: this copy shows their present state again."""
    with connection.begin():
        if connection.scalar(_ANY_DEAD, {"kind": kind}):  # hardly ever, and this is asked in every round
            connection.execute(_OVERTAKEN, {"kind": kind, "written": list(written)})


def _json(failures: Iterable[Failure]) -> str:
    return json.dumps(
        [
            {
                "id": failure.row.id,
                "failures": failure.row.failures,
                "conversation_ids": failure.conversation_ids,
                "state": "dead" if failure.dead else "waiting",
                "last_error": failure.error.replace("\x00", "\\x00")[:ERROR_LENGTH],
            }
            for failure in failures
        ]
    )


def behind(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those of `ids` that some side effect, of any kind, still names."""
    with connection.begin():
        return set(connection.scalars(_BEHIND, {"ids": list(ids)}))
