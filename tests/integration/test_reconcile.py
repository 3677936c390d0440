"""Copies that drift though nothing is behind are found and written again; a Redis that lost its data, at once."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.ledgers import event, execute, file_effect
from tests.service import Service
from worker import embedded
from worker.redis_client import key
from worker.tasks.maintenance import MARKER

Turn = Callable[[], None]


@pytest.fixture(scope="module")
def watched(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker and no beat: what is compared is compared when a test says so."""
    service = make_service(servers, tmp_path_factory.mktemp("reconcile"))
    with service.worker():
        turn(service)
        yield service


def counted(service: Service, name: str, *labels: str) -> float:
    found = service.rows(
        "SELECT value FROM counters WHERE name = :name AND labels = :labels", name=name, labels=[*labels]
    )
    return float(found[0]["value"]) if found else 0.0


def turn(service: Service) -> None:
    """One turn, to its end."""
    before = counted(service, "reconciliations")
    service.producer.send_task("reconcile_conversations", queue="maintenance")
    eventually(lambda: counted(service, "reconciliations") > before)


def redirected(service: Service, *ids: str, destination: str = "billing") -> None:
    """Given these conversations, all copies of which agree, and which moved some time ago."""
    service.send(*[event(f"{destination}-{each}", destination, each) for each in ids])
    eventually(lambda: all(service.state(each) for each in ids))
    eventually(service.agrees)
    execute(service, "UPDATE redirects SET received_at = received_at - interval '1 minute'")


def wrong(service: Service, conversation_id: str, held: str | None) -> None:
    if held is None:
        service.cache.delete(key(conversation_id))
    else:
        service.cache.set(key(conversation_id), held)


@pytest.mark.parametrize(
    "held",
    [
        pytest.param(None, id="gone"),
        pytest.param('{"ai_enabled": true, "status": "active", "destination": "ai", "version": 0}', id="older"),
        pytest.param('{"ai_enabled": true, "status": "active", "destination": "ai", "version": 1}', id="overwritten"),
        pytest.param("not ours", id="no JSON"),
        pytest.param("[]", id="no object"),
    ],
)
def test_a_key_that_does_not_show_the_truth_is_written_again(watched: Service, held: str | None) -> None:
    """Whatever is there instead; found and repaired are counted."""
    found, repaired = counted(watched, "drift_found", "cache"), counted(watched, "drift_repaired", "cache")
    redirected(watched, "key")
    wrong(watched, "key", held)

    turn(watched)

    eventually(watched.agrees)
    assert counted(watched, "drift_found", "cache") == found + 1
    turn(watched)
    assert counted(watched, "drift_repaired", "cache") == repaired + 1
    assert counted(watched, "drift_found", "cache") == found + 1


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM conversations WHERE id = 'row'",
        "UPDATE conversations SET status = 'active', ai_enabled = true WHERE id = 'row'",
        "UPDATE conversations SET owner_id = 'another' WHERE id = 'row'",
        "UPDATE conversations SET version = 0 WHERE id = 'row'",
    ],
)
def test_a_record_that_does_not_show_the_truth_is_written_again(watched: Service, change: str) -> None:
    """Gone, other, or older."""
    found = counted(watched, "drift_found", "record")
    redirected(watched, "row")
    execute(watched, change)

    turn(watched)

    eventually(watched.agrees)
    assert counted(watched, "drift_found", "record") == found + 1


def test_what_is_behind_or_dead_is_no_drift(watched: Service) -> None:
    """The schedule has it, or a person: nothing is filed beside it."""
    redirected(watched, "late", "dead")
    ids = [
        file_effect(watched, "late", due_at="infinity"),
        file_effect(watched, "dead", state="dead", last_error="no", failures=9),
    ]
    for each in ("late", "dead"):
        wrong(watched, each, None)

    turn(watched)

    assert [row["id"] for row in watched.effects()] == ids
    execute(watched, "UPDATE side_effects SET state = 'waiting', due_at = now()")
    watched.producer.send_task("update_cache", queue="effects.cache")
    eventually(watched.agrees)


def test_a_truth_that_is_behind_its_copy_gets_above_it(watched: Service) -> None:
    """A database that was restored: copies and browsers hold newer versions of what is no longer true."""
    redirected(watched, "restored")
    held = json.loads(str(watched.cache.get(key("restored")))) | {"version": 9, "destination": "ai", "ai_enabled": True}
    wrong(watched, "restored", json.dumps(held))
    execute(watched, "UPDATE conversations SET version = 7 WHERE id = 'restored'")

    turn(watched)

    eventually(watched.agrees)
    state = watched.state("restored")
    assert state and (state["version"], state["destination"]) == (10, "billing")


def test_a_version_that_nobody_can_have_reached_is_not_ours(watched: Service) -> None:
    """It is overwritten, and the truth keeps its version."""
    redirected(watched, "far")
    wrong(watched, "far", '{"ai_enabled": true, "status": "active", "destination": "ai", "version": 1e15}')

    turn(watched)

    eventually(watched.agrees)
    state = watched.state("far")
    assert state and state["version"] == 1


def test_a_key_of_the_ais_may_end_with_its_time_and_that_of_people_may_not(watched: Service) -> None:
    """A day after the decision, no key is as good as "the AI's" for whatever reads only the cache."""
    redirected(watched, "of people")
    redirected(watched, "of the ai")
    redirected(watched, "of the ai", destination="ai")
    execute(watched, "UPDATE conversation_states SET occurred_at = now() - interval '2 days'")
    for each in ("of people", "of the ai"):
        wrong(watched, each, None)

    turn(watched)

    eventually(lambda: watched.cached("of people"))
    assert watched.cached("of the ai") is None
    redirected(watched, "of the ai", destination="sales")


def test_the_rotation_comes_to_every_conversation(watched: Service) -> None:
    """Slice by slice in the order of their ids, and again from the first."""
    execute(
        watched,
        """INSERT INTO conversation_states
            (conversation_id, status, ai_enabled, destination, version, occurred_at, event_id)
        SELECT 'many-' || lpad(n::text, 5, '0'), 'support_active', false, 'billing', 1, now(), 'e'
        FROM generate_series(1, 2500) n""",
    )
    before = counted(watched, "compared")
    for _ in range(4):
        turn(watched)
    assert counted(watched, "compared") - before >= 2500
    eventually(lambda: watched.cached("many-00001") and watched.cached("many-02500") and watched.record("many-02500"))
    execute(watched, "DELETE FROM conversation_states WHERE conversation_id LIKE 'many-%'")


@pytest.mark.parametrize("lost", ["FLUSHALL", "an older self"])
def test_a_redis_that_lost_its_data_is_noticed_and_all_is_compared(watched: Service, lost: str) -> None:
    """At the next turn, whatever conversations the rotation is at; and it is over when all are compared."""
    ids = [f"lost-{n}" for n in range(40)]
    redirected(watched, *ids)
    execute(watched, "UPDATE reconciliation SET after = 'zzz'")
    if lost == "FLUSHALL":
        watched.cache.flushall()
    else:
        watched.cache.decr(MARKER, 5)
        watched.cache.delete(*[key(each) for each in ids])

    turn(watched)

    eventually(watched.agrees)
    eventually(lambda: not watched.rows("SELECT whole FROM reconciliation")[0]["whole"])


def test_without_redis_records_are_compared_all_the_same(service: Service, tmp_path: Path) -> None:
    """One copy that cannot be looked at hides no other; and no loss is taken for granted when it is back."""
    home = tmp_path / "home"
    urls = embedded.start(home, ["broker", "cache"])
    own = replace(service, broker_url=urls["broker"], redis_url=urls["cache"])
    try:
        with own.worker():
            turn(own)
            redirected(own, "c1")
            own.cache.shutdown(nosave=True)
            execute(own, "DELETE FROM conversations")
            turn(own)
            eventually(lambda: own.record("c1"))
            assert not own.rows("SELECT whole FROM reconciliation")[0]["whole"]
    finally:
        embedded.stop(home)
