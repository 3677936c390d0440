"""doctor: everything that the service stands on, and what is wrong with it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.typed import NOBODY, Done, Typed
from tests.conftest import make_service
from tests.integration.ledgers import execute, file_effect
from tests.service import Service


@pytest.fixture(scope="module")
def typed(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Types commands against servers of somebody, where no process of ours runs."""
    with Typed(make_service(servers, tmp_path_factory.mktemp("typed"))) as typed:
        yield typed


@pytest.fixture(scope="module")
def service(typed: Typed) -> Service:
    """Where to look."""
    return typed.service


def findings(done: Done) -> dict[str, Any]:
    assert done.stderr == ""
    return {each["name"]: each for each in json.loads(done.stdout)}


def bad(done: Done) -> set[str]:
    assert done.returncode == 1
    return {name for name, each in findings(done).items() if not each["ok"]}


def test_doctor_finds_nothing_wrong(typed: Typed, healthy: None) -> None:
    """Exit code 0; a line for each check, and the same as JSON."""
    done = typed("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok  ")]
    assert len(lines) == len(done.stdout.splitlines()) == 16

    in_json = typed("doctor", "--json")
    assert in_json.returncode == 0
    assert all(each["ok"] for each in findings(in_json).values())


@pytest.fixture
def healthy(service: Service) -> Iterator[None]:
    """Given that nothing is behind; what a test files, goes with it."""
    execute(service, "DELETE FROM side_effects")
    yield
    execute(service, "DELETE FROM side_effects")


def test_doctor_tells_what_is_away(typed: Typed, healthy: None) -> None:
    """Each server that does not answer is a bad finding of its own; the others are still looked at."""
    database, broker, cache = f"postgresql://u:p@{NOBODY}/db", f"redis://{NOBODY}/0", f"redis://{NOBODY}/1"

    assert bad(typed("doctor", "--json", DATABASE_URL=database)) == {"database"}
    assert bad(typed("doctor", "--json", BROKER_URL=broker)) == {"broker"}
    assert bad(typed("doctor", "--json", REDIS_URL=cache)) == {"cache"}
    everything = typed("doctor", "--json", DATABASE_URL=database, BROKER_URL=broker, REDIS_URL=cache)
    assert bad(everything) == {"database", "broker", "cache"}
    refused = [each["says"] for each in findings(everything).values() if not each["ok"]]
    assert [says.count("refused") for says in refused] == [1, 1, 1]
    asked = [says.rpartition("is ")[2] for says in refused]
    assert asked == ["DATABASE_URL right?", "BROKER_URL right?", "REDIS_URL right?"]


def test_doctor_tells_that_the_schema_is_missing(typed: Typed, service: Service) -> None:
    """And what to run."""
    url = service.database_url.rpartition("/")[0] + "/postgres"
    done = typed("doctor", "--json", DATABASE_URL=url)
    assert bad(done) == {"schema"}
    assert "redirect-worker migrate" in findings(done)["schema"]["says"]


def test_doctor_tells_that_broker_and_cache_are_one(typed: Typed, service: Service, healthy: None) -> None:
    """And that this broker would lose its queue in a restart."""
    done = typed("doctor", "--json", BROKER_URL=service.redis_url)
    assert bad(done) == {"broker and cache apart", "broker durability"}
    assert findings(done)["broker durability"]["says"].endswith("set appendonly yes")
    assert "a server each" in findings(done)["broker and cache apart"]["says"]


def test_doctor_tells_of_dead_and_late_side_effects(typed: Typed, service: Service, healthy: None) -> None:
    """A dead one needs a person; one that is due for a minute needs a worker."""
    file_effect(service, "c1", state="dead", last_error="Permanent: no such conversation")
    done = typed("doctor", "--json")
    assert bad(done) == {"dead side effects"}
    assert "redirect-worker effects list" in findings(done)["dead side effects"]["says"]
    file_effect(service, "c1", kind="record")
    execute(service, "UPDATE side_effects SET due_at = now() - interval '1 minute'")
    assert bad(typed("doctor", "--json")) == {"dead side effects", "oldest due side effect"}


@pytest.mark.slow
def test_doctor_compares_the_clocks_of_the_workers(typed: Typed, service: Service, healthy: None) -> None:
    """Each that answers; one whose clock is off is named, with what to do."""
    with service.worker():
        assert findings(typed("doctor", "--json"))["worker clocks"]["says"] == "1 within 5 s"
    with service.worker("--include", "tests.wrong_clock"):
        done = typed("doctor", "--json")
        assert bad(done) == {"worker clocks"}
        assert re.search(r"is -\d{3}\.\d s off: set the clock there", findings(done)["worker clocks"]["says"])


def test_doctor_tells_that_a_worker_has_too_few_processes(typed: Typed, healthy: None) -> None:
    """One for each kind of copy, and one for redirects."""
    done = typed("doctor", "--json", REDIRECT_CONCURRENCY="3")
    assert bad(done) == {"worker processes"}
    assert "set REDIRECT_CONCURRENCY" in findings(done)["worker processes"]["says"]
