"""docs/rollback.md, each of its commands: back a revision and forward, and a backup that ends with all copies right."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.typed import Typed
from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.gateways import gateway
from tests.integration.ledgers import event, execute
from tests.service import Service
from worker.db import migrations
from worker.embedded.postgres import _package

PAGE = (Path(__file__).parents[2] / "docs/rollback.md").read_text()

CAREFUL = "--clean --if-exists --no-owner --single-transaction"


def shell(service: Service, line: str) -> None:
    """A line of the page, as it stands there, with PostgreSQL's own programs."""
    assert line in PAGE
    programs = f"{_package() / 'pginstall/bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "DATABASE_URL": service.database_url}
    done = subprocess.run(
        line, shell=True, cwd=service.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def typed_line(typed: Typed, line: str) -> str:
    assert line in PAGE
    done = typed(*line.split()[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_schema_goes_back_and_forward_by_command(service: Service) -> None:
    """And the state that was decided is there all the while."""
    head = migrations.head()
    with Typed(service) as typed:
        service.send(event("e1"))
        with service.worker():
            eventually(lambda: service.state("c1"))
        assert typed_line(typed, "redirect-worker migrate --down --yes") == f"schema: {head} -> 0006\n"
        assert typed_line(typed, "redirect-worker migrate --to 0006 --yes") == "schema: 0006 -> 0006\n"
        assert service.state("c1")
        assert typed("migrate", "--to", "9999", "--yes").stderr.startswith("Error: this version does not know")
        assert "schema: 0006 -> " in typed("migrate").stdout
        assert migrations.current(service.engine) == head


def test_a_gateway_is_ready_on_a_newer_schema(service: Service) -> None:
    """The version before on the new schema, as in a rolling restart and on the way back. An older one is not enough."""
    with gateway(service) as web:
        execute(service, "UPDATE alembic_version SET version_num = '9999'")
        assert web.get("/readyz").status == 200
        execute(service, "UPDATE alembic_version SET version_num = '0001'")
        assert web.get("/readyz").status == 503


@pytest.mark.slow
@pytest.mark.parametrize("where", ["cache and record", "cache alone"])
def test_a_restored_backup_ends_with_all_copies_equal_to_the_truth(
    servers: dict[str, str], tmp_path: Path, where: str
) -> None:
    """What was decided after the backup is gone, and no copy of what the backup knows tells of it any more."""
    service = make_service(servers, tmp_path)
    with Typed(service) as typed:
        with service.worker():
            service.send(event("e1", "billing"), event("e2", "sales", "c2"))
            eventually(lambda: len(service.redirects()) == 2)
            eventually(service.agrees)
        shell(service, 'pg_dump --format=custom --file=redirects.dump "$DATABASE_URL"')
        with service.worker():
            service.send(event("e3", "ai"), event("e4", "support"), event("e5", "ai", "c2"))
            eventually(lambda: len(service.redirects()) == 5)
            eventually(service.agrees)
        newer = service.rows("SELECT * FROM conversations WHERE id = 'c1'")[0]

        restore = (
            'pg_restore --clean --if-exists --no-owner --single-transaction --dbname="$DATABASE_URL" redirects.dump'
        )
        shell(service, restore)
        if where == "cache alone":  # a record that lives elsewhere was not restored
            execute(
                service,
                f"UPDATE conversations SET version = {newer['version']}, destination = 'support' WHERE id = 'c1'",
            )
        assert typed("migrate").returncode == 0
        with service.worker():
            assert typed_line(typed, "redirect-worker verify --repair --yes").endswith("all copies agree\n")

        state = service.state("c1")
        assert state and (state["destination"], state["version"]) == ("billing", 4)
        assert service.agrees()
