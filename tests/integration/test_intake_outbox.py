"""The outbox: rows are passed on and gone, whatever is killed or away meanwhile."""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.conftest import fresh_database
from tests.eventually import eventually
from tests.integration.intakes import applied, event, passed_on, tasks
from tests.service import Process, Service
from worker import embedded
from worker.db import migrations
from worker.intake import outbox


def put(service: Service, *bodies: object) -> None:
    """Rows of one transaction, as a producer writes them in SQL."""
    with service.engine.begin() as connection:
        for body in bodies:
            connection.execute(
                text("INSERT INTO event_outbox (body) VALUES (CAST(:body AS jsonb))"), {"body": json.dumps(body)}
            )


def rows(service: Service) -> int:
    return int(service.rows("SELECT count(*) AS n FROM event_outbox")[0]["n"])


def names(found: Sequence[Sequence[dict[str, object]]]) -> list[object]:
    return [one["event_id"] for task in found for one in task]


@pytest.fixture
def own_broker(servers: dict[str, str], service: Service, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose broker is a server of its own, to be stopped and started."""
    home = tmp_path / "broker-home"
    try:
        broker = embedded.start(home, ["broker"])["broker"]
        yield replace(service, broker_url=broker, database_url=fresh_database(servers["postgres"])), home
    finally:
        embedded.stop(home)


@pytest.fixture
def own_database(service: Service, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose PostgreSQL is a server of its own, to be stopped and started."""
    home = tmp_path / "postgres-home"
    url = embedded.start(home, ["postgres"], durable=False)["postgres"]
    try:
        migrations.upgrade(url)
        yield replace(service, database_url=url), home
    finally:
        embedded.stop(home)


def test_rows_are_passed_on_and_gone_and_what_is_no_event_is_kept(service: Service) -> None:
    """Events, arrays and CloudEvents go on in the order of insertion; a row that is none goes to rejected_events."""
    cloud = {"specversion": "1.0", "type": "workflow.redirect", "id": "cloud", "subject": "c", "source": "s"}
    put(service, event("one"), [event("two"), event("three")], 5, cloud | {"data": {"destination": "ai"}}, ["no event"])
    with service.running("worker.intake", ready="intake ready"):
        assert names(passed_on(service, 4)) == ["one", "two", "three", "cloud"]
        eventually(lambda: rows(service) == 0)
    assert sorted(row["body"] for row in service.rejected()) == ["5", "no event"]
    assert {row["source"] for row in service.rejected()} == {"event_outbox"}


def test_the_order_of_one_transaction_holds(service: Service) -> None:
    """Decisions of one transaction without times of their own apply in the order of insertion, whatever their ids."""
    put(service, *[event(f"{9 - number}", "same", destination=("billing", "ai")[number % 2]) for number in range(9)])
    with service.running("worker.intake", ready="intake ready"), service.worker("--concurrency", "1"):
        applied(service, 9)
    outcomes = service.rows("SELECT event_id, outcome FROM redirects ORDER BY version")
    assert [(row["event_id"], row["outcome"]) for row in outcomes] == [(str(9 - n), "applied") for n in range(9)]


def test_invariant_1_killed_between_publish_and_delete(service: Service) -> None:
    """SIGKILL after the publish, before the commit: the row is still there, is passed on again, and is applied once."""
    put(service, event("twice"))
    with service.running("worker.intake", REDIRECT_FAILPOINT="intake_after_publish_before_delete") as doomed:
        eventually(lambda: not doomed.running, within=30)
    assert rows(service) == 1
    with service.running("worker.intake", ready="intake ready"), service.worker("--concurrency", "1"):
        eventually(lambda: rows(service) == 0)
        assert applied(service, 1) == ["twice"]


def test_the_broker_is_away(own_broker: tuple[Service, Path]) -> None:
    """With the broker away rows stay and no transaction waits with them; when it is back, they go on."""
    service, home = own_broker
    with service.running("worker.intake", ready="intake ready") as process:
        embedded.stop(home, ["broker"])
        put(service, event("patient"))
        eventually(lambda: process.says("the broker takes nothing"), within=20)
        idle = "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
        eventually(lambda: not service.rows(idle))
        assert rows(service) == 1
        embedded.start(home, ["broker"])
        assert names(passed_on(service, 1, within=30)) == ["patient"]
        eventually(lambda: rows(service) == 0)


def test_the_database_is_away(own_database: tuple[Service, Path]) -> None:
    """The database stopped and started: the intake comes back by itself."""
    service, home = own_database
    with service.running("worker.intake", ready="intake ready") as process:
        embedded.stop(home, ["postgres"])
        eventually(lambda: process.says("the outbox waits for the database"), within=20)
        embedded.start(home, ["postgres"])
        put(service, event("late"))
        assert names(passed_on(service, 1, within=30)) == ["late"]


def test_two_intakes_drain_it_and_double_nothing(service: Service) -> None:
    """2,000 rows, two intakes: each row is passed on once."""
    put(service, *[event(str(number)) for number in range(2000)])

    def started() -> Process:
        return service.spawn("worker.intake")

    both = [started(), started()]
    try:
        found = names(passed_on(service, 2000, within=40))
        eventually(lambda: rows(service) == 0)
    finally:
        for process in both:
            process.kill()
    assert sorted(map(int, map(str, found))) == list(range(2000))
    assert tasks(service) == []


class Waits(threading.Event):
    """A stop that comes after so many waits, and remembers them."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.seen = number, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        self.seen.append(timeout or 0.0)
        return len(self.seen) >= self.number


def test_an_idle_look_backs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing there the looks get rarer, up to IDLE; after a full batch the next comes at once."""
    answers = iter([200, 3, *[0] * 10])
    monkeypatch.setattr(outbox, "_pass_on", lambda forward: next(answers))
    stop = Waits(11)
    outbox.run(stop)
    assert stop.seen[:5] == [outbox.BUSY, 0.0, outbox.BUSY, outbox.BUSY * 2, outbox.BUSY * 4]
    assert stop.seen[-2:] == [outbox.IDLE] * 2
