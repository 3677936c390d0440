"""The side effects that are behind: claimed with the failure written ahead, erased by success.

A claim commits the attempt as if it had failed: one failure more, due again at the policy's next step. Success deletes
the row. So a process that dies in between has already told everything, and no lease is left to expire.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Engine, text

from worker.db.counters import BOUNDS_IN_SQL
from worker.db.prepared import Prepared
from worker.db.session import single_statements, translated
from worker.policy import Policy
from worker.redirects import State

LOST = "begun and not reported back: it is being written now, or its process died"
# The last attempt has no next step to be due at; if it dies, this is how soon the row is looked at and given up.
LAST_LOOK = 60.0
# Characters: an error is a reason for a person, not an archive.
ERROR_LENGTH = 1000

# Whatever this connection has taken, and however often: a claim that finds nothing is made a second time.
_RELEASE = Prepared("release", "SELECT pg_advisory_unlock_all()")
_DUE = Prepared(
    "due",
    """
    SELECT kind FROM unnest(:kinds) AS kind WHERE EXISTS (
        SELECT FROM side_effects e WHERE e.kind = kind.kind AND e.state = 'waiting' AND e.due_at <= now())
    """,
    kinds="text[]",
)
_UNHEARD = Prepared(
    "unheard",
    """
    SELECT kind FROM unnest(:kinds) AS kind WHERE NOT EXISTS (
        SELECT FROM side_effects e WHERE e.kind = kind.kind AND e.state = 'waiting' AND e.failures = 0 AND e.id < :mine
        AND e.due_at BETWEEN now() - make_interval(secs => :window) AND now())
    """,
    kinds="text[]",
    mine="bigint",
    window="float8",
)
# The kind, its rows and their states in one way to the database and back. What the writer before us has settled since
# this statement began is seen gone when its row is locked, and an older state is what every copy's fence is for.
# MATERIALIZED, or the planner may run the locking select again for every row it joins.
_CLAIM = Prepared(
    "claim",
    """
    WITH alone AS MATERIALIZED (
        SELECT pg_try_advisory_lock(hashtext('side_effects'), hashtext(:kind)) AS mine
    ), due AS MATERIALIZED (
        SELECT id FROM side_effects
        WHERE (SELECT mine FROM alone) AND kind = :kind AND state = 'waiting' AND due_at <= now()
            AND (last_error IS NOT DISTINCT FROM :lost) = :crashed
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE side_effects e
        SET failures = failures + 1, last_error = :lost, updated_at = now(),
            due_at = now() + make_interval(secs =>
                coalesce(:steps[failures + 1], :last_look) * (1 + :jitter * random()))
        FROM due WHERE e.id = due.id
        RETURNING e.id, e.conversation_ids, e.failures, extract(epoch FROM e.due_at - now())::float8 AS due_in
    ), states AS (
        SELECT conversation_id, owner_id, destination, version, occurred_at, event_id FROM conversation_states
        WHERE version > 0 AND conversation_id IN (SELECT unnest(conversation_ids) FROM claimed)
    )
    SELECT mine, claimed.*, states.* FROM alone LEFT JOIN (claimed FULL JOIN states ON false) ON true
    """,
    kind="text",
    lost="text",
    crashed="boolean",
    limit="bigint",
    steps="float8[]",
    last_look="float8",
    jitter="float8",
)
# How long each copy took, from the redirect's commit: the bucket, from 1, and the sum. One writer per kind, so nobody
# waits for these rows.
_DONE = Prepared(
    "done",
    f"""
    WITH gone AS (
        DELETE FROM side_effects WHERE id = ANY(:ids)
        RETURNING kind, cardinality(conversation_ids) AS copies,
            greatest(extract(epoch FROM clock_timestamp() - created_at), 0)::float8 AS seconds
    ), taken AS (
        SELECT 'copy_seconds' AS name, ARRAY[kind, width_bucket(seconds, '{BOUNDS_IN_SQL}')::text] AS labels,
            sum(copies) AS value
        FROM gone GROUP BY 1, 2
        UNION ALL SELECT 'copy_seconds_sum', ARRAY[kind], sum(copies * seconds) FROM gone GROUP BY 1, 2
    )
    INSERT INTO counters (name, labels, value) SELECT name, labels, value FROM taken
    ON CONFLICT (name, labels) DO UPDATE SET value = counters.value + excluded.value, updated_at = now()
    """,
    ids="bigint[]",
)
_ANY_DEAD = Prepared(
    "any_dead", "SELECT EXISTS (SELECT FROM side_effects WHERE kind = :kind AND state = 'dead')", kind="text"
)
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


@dataclass(frozen=True, slots=True)
class Claimed:
    """A side effect in hand. `failures` counts this attempt; `due_in` is seconds until it is due again if it fails."""

    id: int
    conversation_ids: list[str]
    failures: int
    due_in: float


@dataclass(frozen=True, slots=True)
class Claim:
    """The rows in hand, and the present states of all their conversations, ordered by id."""

    rows: Sequence[Claimed]
    states: Sequence[State]


@dataclass(frozen=True, slots=True)
class Failure:
    """The part of a claimed row that failed together, why, and whether a schedule tries it again."""

    row: Claimed
    conversation_ids: list[str]
    error: str
    dead: bool


@contextmanager
def desk(engine: Engine) -> Iterator[Connection]:
    """A connection for `claim` and what follows. The kind that is claimed on it is free again when the block ends."""
    with translated(), single_statements(engine) as connection:
        try:
            yield connection
        finally:
            release(connection)


def release(connection: Connection) -> None:
    if connection.invalidated:
        return  # the lock went with it
    try:
        connection.rollback()
        with connection.begin():
            _RELEASE.run(connection)
    except BaseException:
        connection.invalidate()  # a pooled connection must not keep the kind
        raise


def due(engine: Engine, kinds: Collection[str]) -> list[str]:
    """Those of `kinds` that have rows due now."""
    with translated(), single_statements(engine) as connection:
        return list(_DUE.run(connection, kinds=list(kinds)).scalars())


def unheard(engine: Engine, kinds: Collection[str], filed: Collection[int], window: float) -> list[str]:
    """The kinds that need a ring for the rows `filed`: all but those where an older unclaimed row has one on its way.

    Asked after the commit, so whoever claims the older row sees ours too. `window` is seconds: past it a ring counts
    as lost.
    """
    with translated(), single_statements(engine) as connection:
        return list(_UNHEARD.run(connection, kinds=list(kinds), mine=min(filed), window=window).scalars())


def claim(connection: Connection, kind: str, policy: Policy, *, limit: int, jitter: float) -> Claim | None:
    """Take `kind`, and up to `limit` of its due rows, the failure of this attempt already committed.

    None when another process has the kind. One writer per kind: a copy that hangs costs one process, whatever the
    number of rings. PostgreSQL frees the kind the moment its holder dies, because the lock belongs to the connection.

    Rows whose last attempt killed its process come one at a time, after all others, in halves: so that the one
    conversation that kills stands alone in the end and takes no other to its death.
    """
    values = {"kind": kind, "steps": policy.steps_in_sql, "jitter": jitter, "lost": LOST, "last_look": LAST_LOOK}
    found = _claim(connection, values | {"limit": limit, "crashed": False})
    if found is None or found.rows:
        return found
    found = _claim(connection, values | {"limit": 1, "crashed": True})
    if found is None or not found.rows:
        return found
    half = _halved(connection, found.rows[0])
    return Claim([half], [state for state in found.states if state.conversation_id in half.conversation_ids])


def _claim(connection: Connection, values: Mapping[str, Any]) -> Claim | None:
    with connection.begin():
        found: Sequence[Any] = _CLAIM.run(connection, **values).all()
    if not found[0].mine:
        return None
    rows = [Claimed(*row[1:5]) for row in found if row.id is not None]
    states = [State(*row[5:]) for row in found if row.conversation_id is not None]
    return Claim(rows, sorted(states, key=attrgetter("conversation_id")))


def _halved(connection: Connection, row: Claimed) -> Claimed:
    middle = len(row.conversation_ids) // 2
    if middle == 0:
        return row
    first, second = row.conversation_ids[:middle], row.conversation_ids[middle:]
    with connection.begin():
        connection.execute(_HALVE, {"id": row.id, "first": first, "second": second, "lost": LOST})
    return Claimed(row.id, first, row.failures, row.due_in)


def settle(connection: Connection, done: Collection[int], failed: Sequence[Failure]) -> None:
    """Delete what is written; what failed stays with its reason, each reason a row with a schedule of its own."""
    first = {failure.row.id: failure for failure in reversed(failed)}
    others = [failure for failure in failed if first[failure.row.id] is not failure]
    with connection.begin():
        if done:
            _DONE.run(connection, ids=list(done))
        if first:
            connection.execute(_FAILED, {"first": _json(first.values()), "others": _json(others)})


def overtake(connection: Connection, kind: str, written: Collection[str]) -> None:
    """Forget what was dead of the conversations `written`: this copy shows their present state again."""
    with connection.begin():
        if _ANY_DEAD.run(connection, kind=kind).scalar():  # hardly ever, and this is asked in every round
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
