"""status, effects and verify, as typed at three in the morning: what is wrong, and what mends it."""

import json
from collections.abc import Iterator

import pytest

from tests.acceptance.typed import NOBODY, Typed, complaint
from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.ledgers import event, execute, file_effect
from tests.service import Service
from worker.redis_client import key


@pytest.fixture(scope="module")
def typed(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Types commands where a worker and beat run."""
    service = make_service(servers, tmp_path_factory.mktemp("operations"))
    with service.worker(), service.beat(), Typed(service) as typed:
        service.send(*[event(f"e{n}", "billing", f"c{n}") for n in range(5)])
        eventually(lambda: len(service.redirects()) == 5)
        eventually(service.agrees)
        # Beat's first comparison would come after half a minute.
        service.producer.send_task("reconcile_conversations", queue="maintenance")
        ran = "SELECT name FROM counters WHERE name IN ('sweeps', 'reconciliations')"
        eventually(lambda: len(service.rows(ran)) == 2)
        yield typed


@pytest.fixture
def service(typed: Typed) -> Iterator[Service]:
    yield typed.service
    execute(typed.service, "DELETE FROM side_effects")


def dead(service: Service, *ids: str, kind: str = "cache") -> int:
    return file_effect(service, *ids, kind=kind, state="dead", last_error="WRONGTYPE: a list", failures=9)


def test_status_says_that_all_is_well(service: Service, typed: Typed) -> None:
    """Exit code 0; the worker by its name, and every queue."""
    done = typed("status")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("all is well\n")
    found = json.loads(typed("status", "--json").stdout)
    assert found["well"] and len(found["workers"]) == 1
    assert found["queues"]["redirects"] == 0
    assert set(found["last"]) == {"sweeps", "reconciliations"}


def test_status_says_that_what_is_behind_heals_by_itself(service: Service, typed: Typed) -> None:
    """Exit code 0, but not that all is well."""
    file_effect(service, "c1", "c2", kind="cache", due_at="2100-01-01T00:00Z")
    execute(service, "UPDATE side_effects SET created_at = now() - interval '10 seconds'")
    done = typed("status")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("nobody is needed: 2 copies are behind, and tried again until they heal\n")


def test_status_says_what_a_person_must_look_at(service: Service, typed: Typed) -> None:
    """Exit code 1, and each problem as a sentence."""
    dead(service, "c1", "c2")
    file_effect(service, "c3", kind="record", due_at="2026-01-01T00:00Z")
    execute(service, "UPDATE side_effects SET kind = 'nobody' WHERE kind = 'record'")  # whom no sweep rings
    done = typed("status")
    assert done.returncode == 1
    assert "A PERSON MUST LOOK" in done.stdout
    assert "2 cache copies are dead: redirect-worker effects list --state dead" in done.stdout
    assert "nobody: due for" in done.stdout


def test_status_without_servers_is_sentences_too(typed: Typed) -> None:
    """Who does not answer is told, and nothing is a traceback."""
    done = typed("status", DATABASE_URL=f"postgresql://u:secret@{NOBODY}/d", BROKER_URL=f"redis://{NOBODY}/0")
    assert done.returncode == 1
    assert "the database does not answer" in done.stdout
    assert "the broker does not answer" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_effects_are_listed_and_tried_again(service: Service, typed: Typed) -> None:
    """A dead copy is written after `retry`, by the worker that runs."""
    service.cache.delete(key("c1"))
    identity = dead(service, "c1")
    listed = typed("effects", "list")
    assert listed.returncode == 0
    assert f"{identity}  cache" in listed.stdout and "DEAD" in listed.stdout and "c1: WRONGTYPE" in listed.stdout

    done = typed("effects", "retry", str(identity))

    assert (done.returncode, done.stdout) == (0, "1 side effects are tried now\n")
    eventually(service.agrees)
    assert typed("effects", "list").stdout == "nothing is behind, and nothing is dead\n"


def test_all_that_is_dead_of_one_kind_is_tried_again(service: Service, typed: Typed) -> None:
    """And not those of another."""
    dead(service, "c1"), dead(service, "c2")
    other = dead(service, "c1", kind="record")
    done = json.loads(typed("effects", "retry", "--dead", "--kind", "cache", "--json").stdout)
    assert {row["kind"] for row in done["retried"]} == {"cache"}
    eventually(lambda: [row["id"] for row in service.effects()] == [other])


def test_discard_asks_first_and_takes_only_what_is_dead(service: Service, typed: Typed) -> None:
    """No word is no; what waits is never let go."""
    identity, waits = dead(service, "c1"), file_effect(service, "c2", due_at="infinity")
    asked = typed("effects", "discard", str(identity))
    assert asked.returncode == 1 and "Let 1 side effects go?" in asked.stdout
    assert len(service.effects()) == 2

    done = typed("effects", "discard", str(identity), str(waits), "--yes")

    assert done.returncode == 1
    assert f"not there, or not dead: {waits}" in done.stderr
    assert [row["id"] for row in service.effects()] == [waits]


@pytest.mark.parametrize("words", [("retry",), ("retry", "1", "--dead"), ("discard", "--kind", "cache")])
def test_nothing_is_chosen_by_accident(typed: Typed, words: tuple[str, ...]) -> None:
    """Ids, or `--dead`, and never both or neither."""
    done = typed("effects", *words)
    assert done.returncode == 2
    assert "name the ID of each, or say --dead" in done.stderr


def test_verify_finds_what_drifted_and_repairs_it(service: Service, typed: Typed) -> None:
    """Exit code 1 with the names, 0 after a repair that was seen to hold; and 0 where all agree."""
    assert typed("verify").stdout == "5 conversations compared\nall copies agree\n"
    service.cache.delete(key("c1"), key("c2"))
    execute(service, "DELETE FROM conversations WHERE id = 'c3'")

    found = typed("verify")
    assert found.returncode == 1
    assert "cache of c1" in found.stdout and "record of c3" in found.stdout
    assert found.stdout.endswith("NOT all copies agree\n")

    asked = typed("verify", "--repair")
    assert asked.returncode == 1 and "written again?" in asked.stdout

    done = json.loads(typed("verify", "--repair", "--yes", "--json").stdout)
    assert (done["drifted"], done["repaired"], done["well"]) == ({"cache": 2, "record": 1},) * 2 + (True,)
    assert service.agrees()
    assert typed("verify").returncode == 0


def test_verify_goes_on_where_it_ended_and_not_faster_than_told(service: Service, typed: Typed) -> None:
    """`--after` is what the run before has printed as `after`."""
    done = json.loads(typed("verify", "--after", "c2", "--rate", "1000", "--json").stdout)
    assert (done["compared"], done["after"]) == (2, "c4")


def test_verify_says_what_is_behind(service: Service, typed: Typed) -> None:
    """It is known, and no drift; not all copies agree all the same."""
    file_effect(service, "c1", due_at="infinity")
    done = typed("verify")
    assert done.returncode == 1
    assert "cache: 1 are behind, and scheduled" in done.stdout


def test_verify_without_redis_is_a_sentence(typed: Typed) -> None:
    """Nothing is called drift that could not be looked at."""
    assert "Connection refused" in complaint(typed("verify", REDIS_URL=f"redis://{NOBODY}/0"))
