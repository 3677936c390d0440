"""Killed, cut off from the database, or stopped: no message is lost, and none is applied twice. On both brokers."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.integration.intakes import age, applied, declare, event, intake, outside, passed_on, put, tasks, waiting
from tests.service import Service
from worker import embedded
from worker.db import migrations


@pytest.fixture(params=["redis", "rabbitmq"])
def either(request: pytest.FixtureRequest) -> Service:
    """A service on either broker, with no process running."""
    found: Service = request.getfixturevalue("service" if request.param == "redis" else "rabbit_service")
    return found


@pytest.fixture
def own_database(either: Service, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose PostgreSQL is a server of its own, to be stopped and started."""
    home = tmp_path / "postgres-home"
    url = embedded.start(home, ["postgres"], durable=False)["postgres"]
    try:
        migrations.upgrade(url)
        yield replace(either, database_url=url), home
    finally:
        embedded.stop(home)


@pytest.mark.quick
def test_invariant_1_killed_between_publish_and_acknowledgement(either: Service) -> None:
    """SIGKILL after the publish, before the acknowledgement: the next intake passes it on again; it is applied once."""
    declare(either)
    put(either, event("twice"))
    with intake(either, REDIRECT_FAILPOINT="intake_after_publish_before_ack") as doomed:
        eventually(lambda: not doomed.running)
    age(either)
    with intake(either):
        eventually(lambda: waiting(either, "redirects") == 2)
    with either.worker("--concurrency", "1"):
        eventually(lambda: waiting(either, "redirects") == 0)
        assert applied(either, 1) == ["twice"]


def test_invariant_1_killed_at_any_time_under_load(either: Service) -> None:
    """SIGKILL in the middle of a stream, five times: each event is passed on at least once, and is applied once."""
    declare(either)
    sent, stop = count(), threading.Event()

    def load() -> None:
        with outside(either) as producer:
            while not stop.wait(0.002):
                number = next(sent)
                producer.put([event(f"{number}-{part}", f"c-{number % 10}") for part in range(number % 3 + 1)])

    stream = threading.Thread(target=load)
    stream.start()
    try:
        for _ in range(5):
            seen = waiting(either, "redirects")
            with intake(either) as doomed:
                eventually(lambda seen=seen: waiting(either, "redirects") > seen, every=0.01)  # type: ignore[misc]
                doomed.kill()
            age(either)
    finally:
        stop.set()
        stream.join()
    expected = {f"{number}-{part}" for number in range(next(sent)) for part in range(number % 3 + 1)}
    with intake(either), either.worker("--concurrency", "1"):
        assert set(applied(either, len(expected))) == expected
        eventually(lambda: waiting(either) == 0)
    assert either.rejected() == []


def test_what_is_refused_waits_for_the_database_and_holds_up_nobody(own_database: tuple[Service, Path]) -> None:
    """With the database away garbage stays with the broker while what is good goes on; afterwards it is kept.

    A message with good and bad parts is both: its good parts go on once.
    """
    service, home = own_database
    with intake(service) as process:
        embedded.stop(home, ["postgres"])
        put(service, b"garbage", [event("good part"), 5], event("behind"))
        found = passed_on(service, 2)
        assert [one["event_id"] for task in found for one in task] == ["good part", "behind"]
        eventually(lambda: process.says("refused messages stay on the queue"))

        embedded.start(home, ["postgres"])
        eventually(lambda: len(service.rejected()) == 2, within=20)
        assert sorted(row["body"] for row in service.rejected()) == ["5", "garbage"]
        process.kill(signal.SIGTERM)
    assert waiting(service) == 0
    assert tasks(service) == []


def test_invariant_1_killed_while_garbage_waits_for_the_database(own_database: tuple[Service, Path]) -> None:
    """SIGKILL while the database is away: the garbage is still with the broker, and the next intake keeps it."""
    service, home = own_database
    with intake(service) as process:
        embedded.stop(home, ["postgres"])
        put(service, b"garbage")
        eventually(lambda: process.says("refused messages stay on the queue"))
    age(service)
    embedded.start(home, ["postgres"])
    with intake(service):
        eventually(lambda: [row["body"] for row in service.rejected()] == ["garbage"], within=20)


def test_two_intakes_share_the_queue(either: Service) -> None:
    """Two intakes, 600 messages: each event is passed on once."""
    with intake(either, REDIRECT_BATCH="10"), intake(either, REDIRECT_BATCH="10"):
        put(either, *[event(str(number)) for number in range(600)])
        found = [one["event_id"] for task in passed_on(either, 600) for one in task]
    assert sorted(found, key=int) == [str(number) for number in range(600)]
    assert tasks(either) == []


def test_sigterm_ends_it_within_seconds_and_gives_back_what_was_in_hand(own_database: tuple[Service, Path]) -> None:
    """SIGTERM: it ends with 0 and says so, leaves no process, and what it had in hand is on the queue again."""
    service, home = own_database
    with intake(service) as process:
        embedded.stop(home, ["postgres"])
        put(service, b"garbage")
        eventually(lambda: process.says("refused messages stay on the queue"))
        began = time.monotonic()
        process.kill(signal.SIGTERM)
        assert time.monotonic() - began < 8
        assert process.popen.returncode == 0
        assert process.says("intake stopped")
        with pytest.raises(ProcessLookupError):
            os.killpg(process.popen.pid, 0)
    eventually(lambda: waiting(service) == 1)
