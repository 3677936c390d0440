"""Kill it anywhere: within a sweep and the policy's step, all copies agree, and no event is missing."""

import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import fresh_database
from tests.eventually import eventually
from tests.service import WORKER, Service
from worker import embedded
from worker.db import migrations

# Sweep interval, the policy's first steps, and the start of a worker on a busy machine.
HEALED_WITHIN = 30.0


def event(number: int, conversation_id: str = "abc123", destination: str = "billing") -> dict[str, object]:
    return {
        "event_id": f"event-{number}",
        "conversation_id": conversation_id,
        "destination": destination,
        "owner_id": "7",
    }


def kill_at(service: Service, failpoint: str) -> None:
    """Given a redirect during which the whole worker group dies at `failpoint`."""
    with service.worker(REDIRECT_FAILPOINT=failpoint) as worker:
        service.send(event(1))
        eventually(lambda: not worker.running, within=20)


@pytest.mark.quick
def test_invariant_1_and_4_killed_between_commit_and_dispatch(service: Service) -> None:
    """SIGKILL of the whole worker group after the commit, before any ring: the sweep finds the rows."""
    kill_at(service, "after_commit_before_dispatch")
    state = service.state("abc123")
    assert state is not None and (state["version"], state["status"]) == (1, "support_active")
    assert {effect["kind"] for effect in service.effects()} == {"cache", "websocket", "record"}
    assert service.cached("abc123") is None

    with service.worker(), service.beat():
        eventually(service.agrees, within=HEALED_WITHIN)

    assert [row["event_id"] for row in service.redirects()] == ["event-1"]


@pytest.mark.parametrize(
    "failpoint", ["mid_effect_cache", "mid_effect_websocket", "mid_effect_record", "after_write_before_settle"]
)
def test_invariant_4_killed_in_the_middle_of_an_effect(service: Service, failpoint: str) -> None:
    """SIGKILL of the whole group inside an effect: the attempt counts as a failure, and the next writes the copy."""
    kill_at(service, failpoint)
    assert [effect for effect in service.effects() if effect["failures"] == 1]

    with service.worker(), service.beat():
        eventually(service.agrees, within=HEALED_WITHIN)

    assert [row["event_id"] for row in service.redirects()] == ["event-1"]


def test_invariant_1_killed_with_a_full_prefetch(service: Service) -> None:
    """SIGKILL of the group with messages taken and not acknowledged: the broker delivers every one again."""
    # The shortest visibility timeout that still nests around the longest quick retry.
    short = {"REDIRECT_VISIBILITY_TIMEOUT": "36", "REDIRECT_TASK_TIME_LIMIT": "2", "REDIRECT_TASK_SOFT_TIME_LIMIT": "1"}
    with service.worker(REDIRECT_CONCURRENCY="1") as worker:
        # Stopped, so that what it takes stays in hand; noted as taken, because Redis loses what is not.
        service.send(*[event(number, f"conversation-{number}") for number in range(3)])
        eventually(lambda: len(service.redirects()) == 3)
        for child in psutil.Process(worker.popen.pid).children():
            child.suspend()
        for number in range(3, 10):
            service.send(event(number, f"conversation-{number}"))
        eventually(lambda: service.broker.llen("redirects") == 0 and service.broker.hlen("unacked") >= 7)
        worker.kill()

    with service.worker(**short), service.beat():
        eventually(lambda: len(service.redirects()) == 10, within=90)
        eventually(service.agrees, within=HEALED_WITHIN)

    assert all(row["version"] == 1 for row in service.rows("SELECT version FROM conversation_states"))


@pytest.fixture
def own_cache(service: Service, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose cache is a server of its own, to be stopped and started."""
    home = tmp_path / "cache-home"
    urls = embedded.start(home, ["cache"])
    try:
        yield replace(service, redis_url=urls["cache"]), home
    finally:
        embedded.stop(home)


def test_invariant_4_and_5_cache_gone_for_5_seconds(own_cache: tuple[Service, Path]) -> None:
    """With Redis gone redirects are applied and recorded at once; when it is back, the schedule heals the rest."""
    service, home = own_cache
    with service.worker(), service.beat():
        embedded.stop(home, ["cache"])
        for number in range(20):
            service.send(event(number, f"conversation-{number}"))
        # Neither the state nor the record waits for the cache.
        eventually(lambda: len(service.redirects()) == 20)
        eventually(lambda: {effect["kind"] for effect in service.effects()} == {"cache", "websocket"})
        # The fourth attempt of a cache comes 4.2 s after the first: by then Redis was gone for that long.
        eventually(lambda: max(e["failures"] for e in service.effects() if e["kind"] == "cache") >= 4, within=20)
        assert all(effect["state"] == "waiting" and effect["last_error"] for effect in service.effects())

        embedded.start(home, ["cache"])
        eventually(service.agrees, within=HEALED_WITHIN + 11)


def _more_than(service: Service, number: int) -> bool:
    return len(service.redirects()) > number


@pytest.fixture
def own_database(service: Service, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose PostgreSQL is a server of its own, to be stopped and started."""
    home = tmp_path / "postgres-home"
    url = embedded.start(home, ["postgres"])["postgres"]
    try:
        migrations.upgrade(url)
        yield replace(service, database_url=url), home
    finally:
        embedded.stop(home)


def test_invariant_1_and_4_postgresql_restarted_under_load(own_database: tuple[Service, Path]) -> None:
    """PostgreSQL restarts twice while events stream in: none is missing, none is applied twice, all copies agree."""
    service, home = own_database
    stop, sent = threading.Event(), itertools.count(1)

    def load() -> None:
        while not stop.wait(0.05):
            number = next(sent)
            service.send(event(number, f"conversation-{number % 10}", ("billing", "ai")[number // 10 % 2]))

    with service.worker(), service.beat():
        producer = threading.Thread(target=load)
        producer.start()
        try:
            for _ in range(2):
                seen = len(service.redirects())
                eventually(partial(_more_than, service, seen + 30), within=30)
                embedded.stop(home, ["postgres"])
                embedded.start(home, ["postgres"])
            eventually(lambda: len(service.redirects()) > 100, within=40)
        finally:
            stop.set()
            producer.join()
        total = next(sent) - 1
        eventually(lambda: len(service.redirects()) == total, within=60)
        eventually(service.agrees, within=HEALED_WITHIN)

    applied = service.rows("SELECT conversation_id, count(*) AS n FROM redirects WHERE outcome = 'applied' GROUP BY 1")
    states = service.rows("SELECT conversation_id, version AS n FROM conversation_states")
    assert sorted(applied, key=str) == sorted(states, key=str)


def test_invariant_4_the_broker_restarts_under_a_busy_worker(
    servers: dict[str, str], service: Service, tmp_path: Path
) -> None:
    """The broker goes away with messages in flight and comes back: the worker goes on, and every event is applied."""
    home = tmp_path / "broker-home"
    broker = embedded.start(home, ["broker"])["broker"]
    try:
        private = replace(service, broker_url=broker, database_url=fresh_database(servers["postgres"]))
        with private.worker() as worker, private.beat():
            private.send(*[event(number, f"conversation-{number}") for number in range(100)])
            for number in range(100, 140):
                private.send(event(number, f"conversation-{number}"))
            eventually(lambda: private.broker.hlen("unacked") > 0)
            embedded.stop(home, ["broker"])
            embedded.start(home, ["broker"])
            private.send(event(140, "conversation-140"))
            eventually(lambda: len(private.redirects()) == 141, within=40)
            eventually(private.agrees, within=HEALED_WITHIN)
            assert worker.running
    finally:
        embedded.stop(home)


@pytest.mark.quick
def test_after_a_long_outage_the_broker_is_found_within_seconds(service: Service) -> None:
    """Celery's waits between tries to connect grow to half a minute; here all redirects would wait as long."""
    nowhere = replace(service, broker_url="redis://127.0.0.1:1/0")
    with nowhere.running("celery", "-A", "worker.app", *WORKER) as worker:

        def waits() -> list[str]:
            return re.findall(r"Trying again in (\S+) seconds", worker.log.read_text())

        eventually(lambda: len(waits()) == 3)
        assert waits() == ["2.00", "4.00", "5.00"]
