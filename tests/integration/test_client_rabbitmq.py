"""RedirectClient on RabbitMQ: confirmed, routed, and bounded when the broker blocks its publishers or freezes."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from kombu import Connection

from tests.eventually import eventually
from tests.integration.queued import FORK, numbered, run, sending
from tests.rabbitmq import RabbitMQ
from worker import json_queue
from worker.client import BrokerUnavailable, RedirectClient

# Seconds: the patience of a call in these tests, and when it must have come back on a loaded machine.
PATIENCE, BACK_WITHIN = 1.0, 6.0


@pytest.fixture
def url(rabbitmq: RabbitMQ) -> str:
    return rabbitmq.vhost()


@pytest.fixture
def client(url: str) -> Iterator[RedirectClient]:
    with RedirectClient(url, timeout=10) as client:
        yield client


def taken(url: str) -> list[Any]:
    """Everything on the queue, taken off it."""
    with Connection(url) as connection:
        json_queue.declare(connection)
        queue = json_queue.QUEUE.bind(connection.default_channel)
        return list(iter(lambda: queue.get(no_ack=True), None))


def conversations(url: str) -> list[str]:
    return [event["conversation_id"] for message in taken(url) for event in message.payload]


@contextmanager
def bounded() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < BACK_WITHIN


def test_a_confirmed_event_is_on_the_quorum_queue(client: RedirectClient, url: str) -> None:
    """Persistent JSON, by way of the topic exchange; what nobody has declared before is declared."""
    client.redirect("c1", "billing", event_id="e1", reason="مشتری")
    (message,) = taken(url)
    assert (message.content_type, message.properties["delivery_mode"]) == ("application/json", 2)
    assert (
        message.delivery_info["exchange"] == "workflow" and message.delivery_info["routing_key"] == "workflow.redirect"
    )
    (event,) = json.loads(message.body)
    assert (event["event_id"], event["reason"]) == ("e1", "مشتری")


def test_many_arrive_in_order(client: RedirectClient, url: str) -> None:
    """Each message is confirmed before the next."""
    client.redirect_many(numbered(450))
    assert conversations(url) == [f"c{number}" for number in range(450)]


def test_a_queue_that_was_deleted_meanwhile_is_declared_again(client: RedirectClient, url: str) -> None:
    """The broker returns what it cannot route, so nothing is lost between the deletion and the next call."""
    client.redirect("c1", "billing")
    with Connection(url) as connection:
        json_queue.QUEUE.bind(connection.default_channel).delete()
    client.redirect("c2", "billing")
    assert conversations(url) == ["c2"]


def test_what_goes_to_no_queue_is_not_taken_for_sent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a queue the broker confirms a message and drops it; the call fails."""
    monkeypatch.setattr(
        json_queue, "declare", lambda connection: json_queue.EXCHANGE(connection.default_channel).declare()
    )
    with RedirectClient(url, timeout=10) as client, pytest.raises(BrokerUnavailable, match="NO_ROUTE"):
        client.redirect("c1", "billing")


def test_a_connection_that_the_broker_closed_is_replaced(client: RedirectClient, rabbitmq: RabbitMQ, url: str) -> None:
    """As an operator, a proxy or a restart would close it."""
    client.redirect("c1", "billing")
    rabbitmq.ctl("close_all_connections", "--vhost", url.rsplit("/", 1)[1], "test")
    client.redirect("c2", "billing")
    assert conversations(url) == ["c1", "c2"]


def test_invariant_8_a_fork_shares_no_connection(url: str) -> None:
    """The child sends on a connection of its own, and the parent's is as it was."""
    run(FORK, url)
    assert conversations(url) == ["parent-1", "child", "parent-2"]


def test_a_wrong_password_is_told(url: str) -> None:
    """With the broker's words, and without ours."""
    with pytest.raises(BrokerUnavailable, match=r"nothing was sent: .*ACCESS_REFUSED") as raised:
        RedirectClient(url.replace("guest:guest", "guest:not-this-one"), timeout=10).redirect("c1", "billing")
    assert "not-this-one" not in str(raised.value)


def test_invariant_7_a_broker_that_blocks_publishers_does_not_hold_a_call(rabbitmq: RabbitMQ, url: str) -> None:
    """Under its memory alarm it reads nothing: the result is unknown, for old connections and new ones."""
    with RedirectClient(url, PATIENCE) as client:
        client.redirect("c0", "billing")
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            eventually(lambda: "memory" in rabbitmq.ctl("status").split("Alarms", 1)[1].split("Tags", 1)[0])
            for _ in range(2):
                with bounded(), pytest.raises(BrokerUnavailable, match="the result is unknown") as raised:
                    client.redirect("c1", "billing")
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
        eventually(lambda: client.redirect_many(raised.value.events), within=20)
    assert "c1" in conversations(url)


def test_invariant_7_a_frozen_broker_does_not_hold_a_call(rabbitmq: RabbitMQ, url: str) -> None:
    """On a connection that is there the result is unknown; on one that has to be made, nothing was sent."""
    client = RedirectClient(url, PATIENCE)
    client.redirect("c0", "billing")
    with frozen(rabbitmq):
        with bounded(), pytest.raises(BrokerUnavailable, match="the result is unknown"):
            client.redirect("c1", "billing")
        with bounded(), pytest.raises(BrokerUnavailable, match="nothing was sent"):
            client.redirect("c2", "billing")
        with bounded():
            client.close()
        eventually(lambda: not sending())
    with RedirectClient(url, timeout=10) as other:
        other.redirect("c3", "billing")
    assert set(conversations(url)) - {"c1"} == {"c0", "c3"}


@contextmanager
def frozen(rabbitmq: RabbitMQ) -> Iterator[None]:
    processes = [each for each in rabbitmq.processes() if each.status() != psutil.STATUS_ZOMBIE]
    for each in processes:
        each.suspend()
    try:
        yield
    finally:
        for each in processes:
            each.resume()
