"""Somebody else's connection, in whose transaction we work: as much of SQLAlchemy's Connection as the ledger uses."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg2
from psycopg2.extensions import cursor as plain_cursor
from sqlalchemy import Connection, Result, TextClause
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData

from worker.db.session import LOCK_TIMEOUT_MS, judged

_DIALECT = PGDialect_psycopg2()  # type: ignore[no-untyped-call]
# json and jsonb, which an application may have told psycopg2 to leave as text, as Django does.
_JSON = (114, 3802)
_PATIENCE = "SELECT current_setting('lock_timeout'), set_config('lock_timeout', %s, true)"


class Borrowed:
    """One psycopg2 connection, in a transaction that is not ours to end. It prepares nothing in that session.

    Also an Engine, as the ledger uses one: each `begin` is a savepoint. Raises what worker/db/session.py translates to.
    """

    def __init__(self, connection: Any) -> None:
        # Not the connection's own class of cursors: the ledger reads rows by position and by name.
        self._cursor = connection.cursor(cursor_factory=plain_cursor)

    @contextmanager
    def begin(self) -> Iterator["Borrowed"]:
        """What fails in here is undone alone, and the transaction around it can go on."""
        self._run("SAVEPOINT redirect_worker")
        try:
            yield self
        except BaseException:
            self._run("ROLLBACK TO SAVEPOINT redirect_worker; RELEASE SAVEPOINT redirect_worker")
            raise
        self._run("RELEASE SAVEPOINT redirect_worker")

    def execute(self, statement: TextClause, values: Mapping[str, Any] | None = None) -> Result[Any]:
        return self.exec_driver_sql(str(statement.compile(dialect=_DIALECT)), values or {})

    def exec_driver_sql(self, sql: str, values: Any) -> Result[Any]:
        self._run(sql, values)
        described = self._cursor.description
        if described is None:
            return IteratorResult(SimpleResultMetaData([]), iter(()))
        documents = [at for at, column in enumerate(described) if column.type_code in _JSON]
        rows = (_decoded(row, documents) if documents else row for row in self._cursor.fetchall())
        return IteratorResult(SimpleResultMetaData([column.name for column in described]), rows)

    def _run(self, sql: str, values: Any = None) -> None:
        try:
            self._cursor.execute(sql, values)
        except psycopg2.Error as error:
            raise judged(error) from error


def _decoded(row: tuple[Any, ...], documents: Sequence[int]) -> tuple[Any, ...]:
    return tuple(orjson.loads(v) if at in documents and isinstance(v, str) else v for at, v in enumerate(row))


@contextmanager
def inside(where: Any) -> Iterator[Borrowed]:
    """Work in the transaction of `where`, waiting for locks as long as transactions of ours do.

    `where` is a Django database alias (where no transaction is open, one is opened), a psycopg2 connection that is not
    in autocommit mode, or an SQLAlchemy Connection over psycopg2. Raises TypeError and ValueError for anything else.
    """
    with _opened(where) as connection:
        if not isinstance(connection, psycopg2.extensions.connection):
            raise TypeError(f"the connection should be one of psycopg2, not {type(connection).__qualname__}")
        if connection.autocommit and not isinstance(where, str):
            raise ValueError("the connection should be in a transaction, and it is in autocommit mode")
        borrowed = Borrowed(connection)
        before = borrowed.exec_driver_sql(_PATIENCE, (f"{LOCK_TIMEOUT_MS}ms",)).scalar_one()
        try:
            yield borrowed
        finally:
            borrowed.exec_driver_sql(_PATIENCE, (before,))


@contextmanager
def _opened(where: Any) -> Iterator[Any]:
    if isinstance(where, str):
        from django.db import connections, transaction

        with transaction.atomic(using=where):
            yield connections[where].connection
    elif isinstance(where, Connection):
        with where.begin_nested():  # also tells it that its transaction has begun
            yield where.connection.dbapi_connection
    else:
        yield where
