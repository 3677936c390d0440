"""Statements that PostgreSQL plans once for each connection: for short ones, planning takes longer than running.

psycopg2 has no prepared statements of its own, so these are SQL's: https://www.postgresql.org/docs/current/sql-prepare.html
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Result
from sqlalchemy.exc import DBAPIError

from worker.db.borrowed import Borrowed

_PREPARED = "prepared"  # in `Connection.info`, which lives as long as the connection to the server


class Prepared:
    """One or more statements, with `:name` for each parameter of `types` (name to SQL type), run in one go.

    Statements are parted by semicolons; each sees what was committed before it began, and the last one's rows are the
    result. No `*` of a table among them: once a migration has added a column, PostgreSQL refuses to run such a plan.
    A session of one's own is needed, as for the locks of `side_effects`.
    """

    def __init__(self, name: str, sql: str, **types: str) -> None:
        self._name = name
        parts = [self._part(f"{name}_{number}", part, types) for number, part in enumerate(sql.split(";"))]
        self._prepare = "; ".join(prepare for prepare, _ in parts)
        self._execute = "; ".join(execute for _, execute in parts)
        self._plain = _typed(sql, types)

    @staticmethod
    def _part(name: str, sql: str, types: Mapping[str, str]) -> tuple[str, str]:
        used = [parameter for parameter in types if re.search(_place(parameter), sql)]
        for number, parameter in enumerate(used, 1):
            sql = re.sub(_place(parameter), f"${number}", sql)
        declared = ", ".join(types[parameter] for parameter in used)
        given = ", ".join(f"%({parameter})s" for parameter in used)
        if not used:  # empty parentheses are no SQL
            return f"PREPARE {name} AS {sql}", f"EXECUTE {name}"
        return f"PREPARE {name} ({declared}) AS {sql}", f"EXECUTE {name} ({given})"

    def run(self, connection: Connection | Borrowed, **values: Any) -> Result[Any]:
        """The rows of the last statement."""
        if isinstance(connection, Borrowed):  # a session of somebody else's: nothing of ours stays in it
            return connection.exec_driver_sql(self._plain, values)
        known: set[str] = connection.info.setdefault(_PREPARED, set())
        if self._name not in known:
            try:
                connection.exec_driver_sql(self._prepare)
            except DBAPIError:
                connection.invalidate()  # it may have some of the parts, and would refuse them the next time
                raise
            known.add(self._name)
        return connection.exec_driver_sql(self._execute, values)


def _typed(sql: str, types: Mapping[str, str]) -> str:
    """The same as psycopg2 takes it, with each value cast to its type."""
    for name, declared in types.items():
        sql = re.sub(_place(name), f"CAST(%({name})s AS {declared})", sql)
    return sql


def _place(parameter: str) -> str:
    return rf"(?<!:):{parameter}\b"
