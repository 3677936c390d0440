"""PostgreSQL, two Valkeys and (where it is installed) RabbitMQ of this run's own, in a temporary folder."""

import os
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
import psycopg2
from kombu import Connection
from redis import Redis

from tests.rabbitmq import RabbitMQ, installed
from worker import embedded
from worker.db import migrations

# Nothing here may be traded for speed: the run ends when one of them is off.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
TOLD = (*DURABLE, "shared_buffers", "wal_sync_method", "max_wal_size", "server_version", "shared_preload_libraries")


@dataclass
class Database:
    """A fresh copy of the migrated database: `url` for the system, and a connection of the observer's own role.

    The observer is left out of the statements that are counted.
    """

    url: str
    connection: Any

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def value(self, sql: str, *values: Any) -> Any:
        return self.rows(sql, *values)[0][0]

    def statements(self) -> int:
        """Statements that the system under test has run here, BEGIN and COMMIT too."""
        return int(
            self.value(
                "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE userid <> 'observer'::regrole"
                " AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )


class Services:
    """The servers, up inside the block; afterwards nothing of them is left."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redirect-bench-"))
        self._home = self.folder / "home"
        self._rabbitmq: RabbitMQ | None = None
        self._password = secrets.token_hex(16)
        self._number = 0
        self.urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self.urls = embedded.start(self._home, durable=True)
        self._admin("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        embedded.stop(self._home, ["postgres"])
        self.urls |= embedded.start(self._home, ["postgres"], durable=True)
        migrations.upgrade(self.urls["postgres"])
        self._admin(
            "CREATE EXTENSION pg_stat_statements", f"CREATE ROLE observer SUPERUSER LOGIN PASSWORD '{self._password}'"
        )
        off = [name for name in DURABLE if self.settings()[name] != "on"]
        assert not off, f"PostgreSQL is not durable: {off} is not on"
        if installed() is not None:
            self._rabbitmq = RabbitMQ(self.folder / "rabbitmq").start()
            self.urls["rabbitmq"] = self._rabbitmq.url
        self.urls["redis"] = self.urls["broker"]

    def stop(self) -> None:
        """End every server that was started, and remove its data; a second Ctrl-C does not stop this half way."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if self._rabbitmq is not None:
            self._rabbitmq.kill()
        embedded.stop(self._home)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _admin(self, *statements: str, database: str = "redirect") -> list[Any]:
        connection = psycopg2.connect(self.urls["postgres"].rpartition("/")[0] + f"/{database}")
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def settings(self) -> dict[str, str]:
        """What PostgreSQL really runs with."""
        names = ", ".join(f"'{name}'" for name in TOLD)
        rows = self._admin(f"SELECT name, current_setting(name) FROM pg_settings WHERE name IN ({names})")  # noqa: S608
        return dict(rows)

    def fresh(self, queues: Sequence[str] = ()) -> Database:
        """Empty stores: brokers, cache, and a new database. RabbitMQ's `queues` are deleted."""
        for name in ("broker", "cache"):
            with Redis.from_url(self.urls[name]) as client:
                client.flushall()
                client.config_resetstat()
        if self._rabbitmq is not None:
            with Connection(self._rabbitmq.url) as connection:
                channel: Any = connection.default_channel
                for queue in queues:
                    channel.queue_delete(queue)
        self._number += 1
        name = f"bench_{self._number}"
        self._admin(
            f"CREATE DATABASE {name} TEMPLATE redirect STRATEGY file_copy",
            "SELECT pg_stat_statements_reset()",
            "CHECKPOINT",
        )
        url = self.urls["postgres"].rpartition("/")[0] + f"/{name}"
        observer = re.sub(r"//[^@]*@", f"//observer:{self._password}@", url)
        connection = psycopg2.connect(observer, application_name="benchmark")
        connection.autocommit = True
        return Database(url, connection)

    def drop(self, database: Database) -> None:
        database.connection.close()
        self._admin(f"DROP DATABASE {urlsplit(database.url).path[1:]} WITH (FORCE)")

    def processes(self) -> list[psutil.Process]:
        """All server processes."""
        pids = [status.pid for status in embedded.status(self._home) if status.running and status.pid]
        servers = [psutil.Process(pid) for pid in pids]
        below = [child for server in servers for child in server.children(recursive=True)]
        return servers + below + (self._rabbitmq.processes() if self._rabbitmq else [])

    def versions(self) -> dict[str, str]:
        with Redis.from_url(self.urls["cache"]) as client:
            told: Any = client.info("server")
        found = {"PostgreSQL": self.settings()["server_version"], "Valkey": str(told.get("valkey_version", "?"))}
        if self._rabbitmq is not None:
            found["RabbitMQ"] = self._rabbitmq.ctl("version").strip()
        return found

    def environment(self, database: Database, broker: str) -> dict[str, str]:
        """The environment of a process of ours or of a peer, with default settings."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("REDIRECT_", "MAKE"))}
        return inherited | {
            "DATABASE_URL": database.url,
            "BROKER_URL": self.urls[broker],
            "REDIS_URL": self.urls["cache"],
            "C_FORCE_ROOT": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
