"""RedirectClient on Redis: what arrives, what is refused, and whose connections it uses."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from tests.eventually import eventually
from tests.integration.queued import FORK, arrived, bodies, connections, envelopes, numbered, run
from tests.service import Service
from worker.client import LARGEST, RedirectClient
from worker.errors import Rejected
from worker.events import shaped


@pytest.fixture
def client(service: Service) -> Iterator[RedirectClient]:
    with RedirectClient(service.broker_url, timeout=10) as client:
        yield client


# What arrives.


def test_a_redirect_is_on_the_queue_when_the_call_returns(client: RedirectClient, service: Service) -> None:
    """Every argument is a field of the event, as JSON that the contract's parser accepts; the message is persistent."""
    event_id = client.redirect(
        "c1",
        "billing",
        event_id="wf42-7f3c",
        occurred_at=datetime(2026, 11, 22, 10, tzinfo=UTC),
        owner_id="7",
        source="workflow/42",
        actor={"type": "workflow", "id": "42"},
        reason="مشتری پول خواست",
        metadata={"order": 9917},
        expires_at="2026-11-22T11:00:00Z",
    )
    (event,) = arrived(service.broker)
    assert event == {
        "event_id": "wf42-7f3c",
        "conversation_id": "c1",
        "destination": "billing",
        "occurred_at": "2026-11-22T10:00:00+00:00",
        "owner_id": "7",
        "source": "workflow/42",
        "actor": {"type": "workflow", "id": "42"},
        "reason": "مشتری پول خواست",
        "metadata": {"order": 9917},
        "expires_at": "2026-11-22T11:00:00Z",
    }
    assert event_id == shaped(event).event_id
    (envelope,) = envelopes(service.broker)
    assert (envelope["content-type"], envelope["properties"]["delivery_mode"]) == ("application/json", 2)


def test_identity_and_time_are_filled_in(client: RedirectClient, service: Service) -> None:
    """Without them an event gets a UUID and the time of the call; what was not said is not in the message."""
    before = datetime.now(UTC)
    event_id = client.redirect("c1", "billing")
    (event,) = arrived(service.broker)
    assert event.keys() == {"event_id", "conversation_id", "destination", "occurred_at"}
    assert event["event_id"] == event_id == str(UUID(event_id))
    assert before <= datetime.fromisoformat(event["occurred_at"]) <= datetime.now(UTC)


def test_many_travel_in_arrays_of_two_hundred(client: RedirectClient, service: Service) -> None:
    """All of a generator arrive in order, in as few messages as that allows, and the ids come back in order."""
    assert client.redirect_many(event for event in numbered(450)) == [
        each["event_id"] for each in arrived(service.broker)
    ]
    assert [each["conversation_id"] for each in arrived(service.broker)] == [f"c{number}" for number in range(450)]
    assert [len(json.loads(body)) for body in bodies(service.broker)] == [200, 200, 50]


def test_a_message_stays_below_eight_mebibytes(client: RedirectClient, service: Service) -> None:
    """Large events travel in more messages."""
    client.redirect_many(numbered(180, reason="x" * 60_000))
    assert len(arrived(service.broker)) == 180
    assert [len(body) <= LARGEST for body in bodies(service.broker)] == [True, True]


def test_in_one_call_the_later_event_is_the_later_decision(client: RedirectClient, service: Service) -> None:
    """Times that are filled in grow strictly: a random event_id must not decide who wins."""
    client.redirect_many([{"conversation_id": "c1", "destination": "ai"}] * 300)
    times = [datetime.fromisoformat(event["occurred_at"]) for event in arrived(service.broker)]
    assert all(later - earlier >= timedelta(microseconds=1) for earlier, later in pairwise(times))


def test_nothing_is_sent_for_nothing(service: Service) -> None:
    """An empty call needs no broker."""
    assert RedirectClient("redis://127.0.0.1:1/0").redirect_many([]) == []


# What is refused.

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"conversation_id": "x" * 65}, "malformed", "conversation_id: "),
    ({"conversation_id": None}, "malformed", "conversation_id: "),
    ({"occurred_at": datetime(2026, 11, 22)}, "malformed", "occurred_at: "),  # noqa: DTZ001 - no offset
    ({"actor": {"type": "robot"}}, "malformed", "actor.type: "),
    ({"metadata": {"deep": {}}}, "malformed", "metadata.deep: "),
    ({"metadata": {"of": datetime.now(UTC)}}, "malformed", "should be JSON"),
    ({"event_id": ""}, "malformed", "event_id: "),
    ({"reason": "x" * 70_000}, "too_large", "an event should be at most"),
]


@pytest.mark.parametrize(("fields", "code", "field"), WRONG)
def test_a_bad_event_is_refused_before_anything_is_sent(
    client: RedirectClient, service: Service, fields: dict[str, Any], code: str, field: str
) -> None:
    """The sentence names the event and the field, and the good ones before it stay here, too."""
    with pytest.raises(Rejected, match=rf"^events\[250\]: {field}") as refused:
        client.redirect_many([*numbered(250), numbered(1)[0] | fields])
    assert refused.value.code == code
    assert envelopes(service.broker) == []


def test_what_is_no_event_is_refused(client: RedirectClient) -> None:
    """A redirect tells the field alone; and an event has to be a mapping."""
    with pytest.raises(Rejected, match=r"^conversation_id: "):
        client.redirect("", "billing")
    with pytest.raises(Rejected, match=r"^events\[0\]: an event should be a mapping, not str"):
        client.redirect_many(["billing"])  # type: ignore[list-item]


def test_an_address_that_is_none_is_refused_at_once() -> None:
    """Not at the first redirect."""
    with pytest.raises(Exception, match="nowhere"):
        RedirectClient("nowhere://127.0.0.1")


# Connections.


def test_a_broker_that_forgot_its_queues_still_keeps_what_comes(client: RedirectClient, service: Service) -> None:
    """Redis drops a message to an exchange without bindings, as after FLUSHALL: so we do not depend on them."""
    client.redirect("c1", "billing")
    service.broker.flushall()
    client.redirect("c2", "billing")
    assert [event["conversation_id"] for event in arrived(service.broker)] == ["c2"]


def test_calls_share_a_connection_until_it_is_closed(client: RedirectClient, service: Service) -> None:
    """One after the other needs no second connection; close leaves none; and a closed client can be used again."""
    before = connections(service.broker)
    client.redirect("c1", "billing")
    opened = connections(service.broker) - before
    client.redirect("c2", "billing")
    assert connections(service.broker) - before == opened
    client.close()
    eventually(lambda: not connections(service.broker) & opened)
    client.redirect("c3", "billing")
    assert len(arrived(service.broker)) == 3


def test_many_threads_share_a_client(client: RedirectClient, service: Service) -> None:
    """Nothing is lost, nothing is doubled."""
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda number: client.redirect(f"c{number}", "billing"), range(200)))
    assert sorted(event["event_id"] for event in arrived(service.broker)) == sorted(ids)


def test_invariant_8_a_fork_shares_no_connection(service: Service) -> None:
    """The child sends on a connection of its own, and the parent's is as it was."""
    run(FORK, service.broker_url)
    assert [event["conversation_id"] for event in arrived(service.broker)] == ["parent-1", "child", "parent-2"]


IMPORT = """
import sys
connected = []
sys.addaudithook(lambda event, _: connected.append(event) if event.startswith("socket.") else None)
import worker.client
print(*connected, *{"celery", "sqlalchemy", "psycopg2", "redis"} & set(sys.modules))
"""
SEND = """
import sys
from worker.client import RedirectClient
with RedirectClient(sys.argv[1], timeout=10) as client:
    client.redirect("c1", "billing")
print(*{"celery", "sqlalchemy", "psycopg2"} & set(sys.modules))
"""


def test_invariant_8_importing_opens_nothing_and_needs_little() -> None:
    """Neither Celery nor SQLAlchemy, psycopg2 or Redis is imported, and no address is looked up."""
    assert run(IMPORT) == []


def test_a_producer_needs_no_database(service: Service) -> None:
    """Sending imports neither Celery nor a database's driver, and no DATABASE_URL is set."""
    assert run(SEND, service.broker_url) == []
    assert len(arrived(service.broker)) == 1
