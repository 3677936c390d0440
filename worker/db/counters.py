"""Numbers that only grow, of all processes together: one row for each name and its labels.

What happens often is counted afterwards, from the rows that it left, so that no two redirects wait for one counter.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson
from sqlalchemy import Connection, Engine, text

from worker.db.session import translated
from worker.errors import Transient

# Seconds: longer than any transaction that writes redirects may take (worker/db/session.py bounds its statements).
SETTLED = 30
# What one statement counts, and how many of those one call makes, after nobody has asked for a day.
SLICE = "10 minutes"
SLICES = 144

# Seconds: the buckets of how long a copy took. A live one takes milliseconds, one that heals as long as its outage.
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
# As PostgreSQL's width_bucket wants them: it counts a value that is on a bound as above it.
BOUNDS_IN_SQL = "{" + ",".join(map(str, BOUNDS)) + "}"

_ADD = text("""
    INSERT INTO counters (name, labels, value)
    SELECT name, labels, value FROM json_populate_recordset(null::counters, CAST(:rows AS json)) ORDER BY name, labels
    ON CONFLICT (name, labels) DO UPDATE SET value = counters.value + excluded.value, updated_at = now()
""")
_READ = text("SELECT name, labels, value, updated_at FROM counters ORDER BY name, labels")
# Table -> the columns that are its labels.
_COUNTED = {"redirects": "destination, outcome", "rejected_events": "code"}
_COUNT = """
    WITH mark AS MATERIALIZED (
        SELECT updated_at AS since,
            least(updated_at + interval '{slice}', now() - make_interval(secs => {settled})) AS until
        FROM counters WHERE name = 'counted' AND labels = ARRAY['{table}'] FOR UPDATE SKIP LOCKED
    ), found AS MATERIALIZED (
        SELECT ARRAY[{columns}] AS labels, count(*) AS number FROM mark, {table}
        WHERE received_at >= since AND received_at < until GROUP BY 1
    ), added AS (
        INSERT INTO counters (name, labels, value) SELECT '{table}', labels, number FROM found
        ON CONFLICT (name, labels) DO UPDATE SET value = counters.value + excluded.value, updated_at = now()
    )
    UPDATE counters SET updated_at = until, value = value + (SELECT coalesce(sum(number), 0) FROM found)
    FROM mark WHERE name = 'counted' AND labels = ARRAY['{table}'] AND until > since
    RETURNING until - since >= interval '{slice}' AS more
"""
_SINCE = """
    SELECT ARRAY[{columns}] AS labels, count(*) AS number FROM counters, {table}
    WHERE name = 'counted' AND labels = ARRAY['{table}'] AND received_at >= counters.updated_at GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class Count:
    """So many more of what `name` counts, with these labels."""

    name: str
    labels: tuple[str, ...] = ()
    value: float = 1.0


@dataclass(frozen=True, slots=True)
class Counter:
    """A number and when it last grew; of `counted`, up to when its table is counted."""

    name: str
    labels: tuple[str, ...]
    value: float
    updated_at: datetime


def add(connection: Connection, counts: Iterable[Count]) -> None:
    """In the transaction of `connection`: keep it short, others wait for these rows."""
    connection.execute(_ADD, {"rows": orjson.dumps([asdict(count) for count in counts]).decode()})


def read(engine: Engine) -> list[Counter]:
    """Every number as it is now, redirects and refusals of this moment among them. Raises Transient."""
    for table in _COUNTED:
        _catch_up(engine, table)
    with translated(), engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        counters = {
            (row.name, tuple(row.labels)): Counter(row.name, tuple(row.labels), row.value, row.updated_at)
            for row in connection.execute(_READ)
        }
        for table, columns in _COUNTED.items():
            for row in connection.execute(text(_SINCE.format(table=table, columns=columns))):
                key = (table, tuple(row.labels))
                known = counters.get(key)
                at = counters["counted", (table,)].updated_at
                counters[key] = Counter(*key, row.number + (known.value if known else 0), at)
    return list(counters.values())


def _catch_up(engine: Engine, table: str) -> None:
    """Add what is settled to the counters. Another process that is at it is left to it."""
    statement = text(_COUNT.format(table=table, columns=_COUNTED[table], slice=SLICE, settled=SETTLED))
    for _ in range(SLICES):
        with translated(), engine.begin() as connection:
            if not connection.execute(statement).scalar():
                return


def tell(engine: Engine, *counts: Count) -> None:
    """As `add`, from where nothing may wait for a count, or fail for it."""
    with suppress(Transient), translated(), engine.begin() as connection:
        add(connection, counts)


def named(counters: Iterable[Counter], name: str) -> Iterator[Counter]:
    return (counter for counter in counters if counter.name == name)
