"""Somebody else in our database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from tests.chaos.harness.world import World

LOCK = "SELECT FROM conversation_states WHERE conversation_id = %s FOR UPDATE"


class Stranger:
    """Another client of the same database, as a superuser at a prompt: with no time limit, and in nobody's order."""

    def __init__(self, world: World) -> None:
        self._connection = psycopg2.connect(world.direct.database_url)
        self._world = world
        self.pid: int = self._connection.get_backend_pid()

    def do(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def rollback(self) -> None:
        self._connection.rollback()

    def commit(self) -> None:
        self._connection.commit()

    def alone(self, sql: str) -> None:
        """In no transaction."""
        self._connection.autocommit = True
        self.do(sql)
        self._connection.autocommit = False

    def blocks(self) -> bool:
        sql = "SELECT count(*) AS n FROM pg_stat_activity WHERE :pid = ANY(pg_blocking_pids(pid))"
        return bool(self._world.direct.rows(sql, pid=self.pid)[0]["n"])

    def close(self) -> None:
        self._connection.close()


@contextmanager
def stranger(world: World) -> Iterator[Stranger]:
    one = Stranger(world)
    try:
        yield one
    finally:
        one.close()
