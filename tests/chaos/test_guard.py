"""Invariants 1 and 6 when something breaks as well: the database is away, an event kills, hangs or finds a bug."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.conftest import make_service
from tests.eventually import eventually
from tests.poison import body, envelope, event, headers, message, properties
from tests.service import Process, Service
from worker import embedded
from worker.db import migrations
from worker.db.side_effects import LOST
from worker.policy import POLICIES


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service with servers of its own, to be stopped, started and filled up."""
    home = tmp_path / "home"
    urls = embedded.start(home, durable=False)
    try:
        migrations.upgrade(urls["postgres"])
        yield Service(urls["postgres"], urls["broker"], urls["cache"], tmp_path), home
    finally:
        embedded.stop(home)


def count(process: Process, words: str) -> int:
    return process.log.read_text(errors="replace").count(words)


def test_invariant_1_and_6_parking_waits_for_the_database(own_servers: tuple[Service, Path]) -> None:
    """While PostgreSQL is away nothing is lost and the worker does not spin; when it is back, all is kept or done."""
    service, home = own_servers
    nowhere = properties(delivery_info={"exchange": "nowhere", "routing_key": "nowhere"})
    with service.worker() as worker:
        embedded.stop(home, ["postgres"])
        service.broker.lpush("redirects", b"garbage", message("poison", task=5), message("late", expires="2020-01-01"))
        # A redirect that has to be put back, with an address that its producer made up.
        service.broker.lpush("redirects", envelope(headers("redirect"), body(event("redirect")), properties=nowhere))
        eventually(lambda: count(worker, "parking_postponed") >= 2, within=20)
        eventually(lambda: count(worker, "redirect_received") >= 2, within=30)
        assert count(worker, "parking") <= 10
        assert service.broker.hlen("unacked") >= 3

        embedded.start(home, ["postgres"])
        eventually(lambda: len(service.rejected()) == 3, within=20)
        eventually(lambda: service.cached("redirect"), within=20)
        eventually(lambda: not service.broker.exists("unacked", "redirects"))
        assert worker.running
        assert not worker.says("Connection to broker lost")

    assert {row["code"] for row in service.rejected()} == {"malformed", "expired"}


def test_invariant_1_a_full_broker_costs_no_message(own_servers: tuple[Service, Path]) -> None:
    """Messages that it will neither move nor note as handed out are done all the same; the worker goes on."""
    service, _ = own_servers
    names = [f"taken from a full broker {number}" for number in range(5)]
    with service.worker() as worker, service.beat():
        with service.broker.pipeline() as at_once:
            at_once.lpush("redirects", *[message(name) for name in names])
            at_once.config_set("maxmemory", 1)
            at_once.execute()
        eventually(lambda: all(service.state(name) for name in names))
        assert worker.says("delivery_not_noted") and worker.says("taking_refused")

        service.broker.config_set("maxmemory", 0)
        service.send(event("later"))
        eventually(lambda: service.cached("later"))
        eventually(service.agrees, within=20)
        assert worker.running
    assert service.rejected() == []


@pytest.fixture(scope="module")
def haunted(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Process]]:
    """A worker in which some events and one conversation kill, hang or fail: see tests/killers.py."""
    service = make_service(servers, tmp_path_factory.mktemp("haunted"))
    short = {"REDIRECT_TASK_TIME_LIMIT": "1.5", "REDIRECT_TASK_SOFT_TIME_LIMIT": "1"}
    quick = {"REDIRECT_SWEEP_INTERVAL": "0.5", "REDIRECT_RECORD_STORE": "tests.killers:Store"}
    with service.worker("--include", "tests.killers", **short, **quick) as worker, service.beat(**quick):
        yield service, worker


def kept(service: Service, event_id: str) -> list[dict[str, str]]:
    return [row for row in service.rejected() if json.loads(row["body"]) == event(event_id)]


# What happens to an event, as it says itself; the code it is kept with; how often it is tried.
LOST_4_TIMES = ("worker_lost", 4)
CULPRITS = {"killer": LOST_4_TIMES, "sleeper": LOST_4_TIMES, "greedy": LOST_4_TIMES, "buggy": ("failed", 1)}


def test_invariant_6_an_event_that_fails_each_time_stands_alone_in_the_end(haunted: tuple[Service, Process]) -> None:
    """It kills or hangs its process, takes all memory or meets a bug; alone or in a call of many it is kept.

    All others are applied. What takes its process along is tried 1 + max_retries times: it may have been innocent.
    """
    service, worker = haunted
    for culprit in CULPRITS:
        service.send(event(f"{culprit}-alone"))
        service.send(event(f"1 beside {culprit}"), event(f"{culprit}-inside"), event(f"2 beside {culprit}"))

    neighbours = [f"{number} beside {culprit}" for number in (1, 2) for culprit in CULPRITS]
    eventually(lambda: all(service.cached(name) for name in neighbours), within=40)
    culprits = [f"{culprit}-{where}" for culprit in CULPRITS for where in ("alone", "inside")]
    eventually(lambda: all(kept(service, name) for name in culprits), within=40)

    for culprit, (code, runs) in CULPRITS.items():
        rows = kept(service, f"{culprit}-alone") + kept(service, f"{culprit}-inside")
        assert [(row["code"], row["source"]) for row in rows] == [(code, "redirect_conversation")] * 2
        assert all(row["error"].startswith("applying it ") for row in rows)
        # Once more if it was first run together with others. A sixth meeting was seen once, on a loaded machine; why is
        # not known yet.
        assert runs <= count(worker, f"met {culprit}-alone\n") <= runs + 2
    assert {row["event_id"] for row in service.redirects()} >= set(neighbours)
    assert not any(service.state(name) for name in culprits)
    assert worker.running


def test_invariant_6_a_call_that_is_too_much_for_one_time_limit(haunted: tuple[Service, Process]) -> None:
    """It is done in halves, and in their halves: put back whole it would go round for ever."""
    service, worker = haunted
    names = [f"slow {number}" for number in range(8)]  # 2.8 s; the soft limit is 1 s
    service.send(*map(event, names))

    eventually(lambda: all(service.cached(name) for name in names), within=30)

    assert worker.running
    assert service.rows("SELECT outcome, count(*) AS n FROM redirects WHERE event_id LIKE 'slow %' GROUP BY 1") == [
        {"outcome": "applied", "n": 8}
    ]


def test_invariant_5_and_6_a_copy_that_kills_its_process_ends_dead(haunted: tuple[Service, Process]) -> None:
    """The schedule used up, the one conversation is dead with its reason; all other copies are written."""
    service, worker = haunted
    deadly = event("a record", conversation_id="killer-conversation")
    service.send(event("another record"), deadly)
    service.send(event("one more record"))
    for name in ("another record", "one more record"):
        eventually(partial(saved_in_a_hurry, service, name), within=30)
    eventually(lambda: service.cached("killer-conversation"))

    last_steps = "UPDATE side_effects SET failures = :steps WHERE kind = 'record'"
    with service.engine.begin() as connection:
        connection.execute(text(last_steps), {"steps": len(POLICIES["record"].steps)})
    eventually(lambda: hurried(service) and [row["state"] for row in service.effects()] == ["dead"], within=30)

    (dead,) = service.effects()
    assert (dead["kind"], dead["conversation_ids"]) == ("record", ["killer-conversation"])
    assert LOST in dead["last_error"]
    assert worker.running


def saved_in_a_hurry(service: Service, name: str) -> bool:
    return hurried(service) and service.record(name) is not None


def hurried(service: Service) -> bool:
    """All that waits is due now."""
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE side_effects SET due_at = now() WHERE state = 'waiting' AND due_at > now()"))
    return True


def test_invariant_1_a_redirect_that_an_operator_ends_is_kept(haunted: tuple[Service, Process]) -> None:
    """Revoked before it ran, or terminated while it did (Flower has a button for each): the event is kept."""
    service, worker = haunted
    service.producer.control.revoke("revoked-task", reply=True)
    service.send(event("revoked"), task_id="revoked-task")
    service.send(event("sleeper-3"), task_id="ended-task")
    eventually(lambda: worker.says("met sleeper-3\n"))
    service.producer.control.terminate("ended-task", signal="SIGKILL")

    for event_id in ("revoked", "sleeper-3"):
        (row,) = eventually(partial(kept, service, event_id))
        assert row["code"] == "revoked"
    assert worker.running
