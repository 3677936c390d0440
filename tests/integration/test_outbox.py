"""The outbox: what a producer commits is taken once, in order, and what it rolls back was never there."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.posting import event
from tests.service import Service
from worker.db.outbox import store, take


def put(service: Service, *events: dict[str, Any]) -> None:
    with service.engine.begin() as connection:
        store(connection, [json.dumps(one) for one in events])


def taken(service: Service, limit: int = 100) -> list[Any]:
    with service.engine.begin() as connection:
        return [json.loads(body) for body in take(connection, limit)]


def ids(events: list[Any]) -> list[str]:
    return [one["event_id"] for one in events]


def test_events_are_taken_oldest_first_and_once(service: Service) -> None:
    """As many as are asked for; then the next ones; then nothing."""
    put(service, *(event(f"e{number}") for number in range(5)))
    assert [ids(taken(service, 2)) for _ in range(4)] == [["e0", "e1"], ["e2", "e3"], ["e4"], []]


def test_storing_nothing_is_nothing(service: Service) -> None:
    """A request of which nothing was accepted."""
    put(service)
    assert taken(service) == []


def test_two_takers_share_the_work(service: Service) -> None:
    """The second waits for nothing and gets nothing of what the first has in hand."""
    put(service, *(event(f"e{number}") for number in range(4)))
    with service.engine.begin() as first, service.engine.begin() as second:
        assert ids([json.loads(body) for body in take(first, 2)]) == ["e0", "e1"]
        assert ids([json.loads(body) for body in take(second, 9)]) == ["e2", "e3"]


def test_what_was_taken_and_not_committed_is_still_there(service: Service) -> None:
    """A taker that dies leaves everything to the next."""
    put(service, event("e1"))
    with service.engine.connect() as dying:
        assert len(take(dying, 9)) == 1
        dying.rollback()
    assert ids(taken(service)) == ["e1"]


def test_an_event_without_a_time_was_decided_when_it_was_put_there(service: Service) -> None:
    """In the order of insertion, also within one transaction, however long it then lies there."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    with service.engine.begin() as connection:
        for number in range(20):
            store(connection, [json.dumps(event(f"e{20 - number}"))])
    times = [datetime.fromisoformat(one["received_at"]) for one in taken(service)]
    assert times == sorted(set(times))
    assert before < times[0] < times[-1] < datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("time", ["2026-11-22T10:00:00Z", "no time", 5])
def test_a_time_that_was_given_stays(service: Service, time: object) -> None:
    """Also one that will be refused: that is for the ledger to say."""
    put(service, event("e1", occurred_at=time))
    assert taken(service) == [event("e1", occurred_at=time)]


def test_null_is_no_time(service: Service) -> None:
    """As everywhere in the contract, null is the same as left out."""
    put(service, event("e1", occurred_at=None))
    assert taken(service)[0]["received_at"] is not None


def test_what_is_no_plain_event_is_taken_as_it_is(service: Service) -> None:
    """A CloudEvent names its time otherwise, and the rest is refused whole by whoever takes it."""
    bodies: list[Any] = [{"specversion": "1.0", "id": "e1"}, [event("e2")], 5, None]
    with service.engine.begin() as connection:
        store(connection, [json.dumps(body) for body in bodies])
    assert taken(service) == bodies
