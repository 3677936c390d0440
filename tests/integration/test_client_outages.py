"""How long a call of RedirectClient may take, and what it says, when the broker is not as it should be. On Redis."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Producer
from redis import Redis

from tests.eventually import eventually
from tests.integration.queued import arrived, bodies, connections, envelopes, numbered, sending
from tests.service import Service
from worker import embedded
from worker.client import CONNECTIONS, BrokerUnavailable, RedirectClient
from worker.embedded.home import recall
from worker.errors import Transient

# Seconds: the patience of a call in these tests, and when it must have come back on a loaded machine.
PATIENCE, BACK_WITHIN = 0.5, 5.0


@contextmanager
def refusing() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that does not even answer a SYN: its backlog is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextmanager
def bounded() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < BACK_WITHIN


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
@pytest.mark.parametrize(("port", "why"), [(refusing, "refused"), (silent, ""), (black_hole, "")])
def test_invariant_7_a_call_comes_back_whatever_the_port_does(scheme: str, port: Any, why: str) -> None:
    """It says that nothing was sent, why, and which events; and what was left behind ends by itself."""
    with port() as number:
        client = RedirectClient(f"{scheme}://127.0.0.1:{number}", PATIENCE)
        with bounded(), pytest.raises(BrokerUnavailable, match=f"nothing was sent: .*{why}") as raised:
            client.redirect("c1", "billing", event_id="e1")
        assert isinstance(raised.value, Transient)
        assert [event["event_id"] for event in raised.value.events] == ["e1"]
        eventually(lambda: not sending())


def test_invariant_7_a_name_that_is_not_resolved_does_not_hold_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver knows no timeout, so only the thread is left behind."""
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(30) and [])
    try:
        for scheme in ("redis", "amqp"):
            with bounded(), pytest.raises(BrokerUnavailable, match=r"nothing was sent: no answer within 0\.5 s"):
                RedirectClient(f"{scheme}://broker.example", PATIENCE).redirect("c1", "billing")
    finally:
        answer.set()
    eventually(lambda: not sending())


def test_what_was_not_begun_in_time_is_never_sent(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is found when the caller has gone: then nothing may follow, for the caller goes on without it."""
    late, resolve = threading.Event(), socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: resolve(*asked, **how) if late.wait(30) else [])
    with pytest.raises(BrokerUnavailable, match="nothing was sent"):
        RedirectClient(service.broker_url, PATIENCE).redirect("c1", "billing")
    late.set()
    eventually(lambda: not sending())
    assert envelopes(service.broker) == []


def test_more_threads_than_connections_all_come_back() -> None:
    """Whoever finds no free connection waits for one, and no longer than the call may take."""
    with silent() as number, ThreadPoolExecutor(CONNECTIONS + 5) as threads, bounded():
        client = RedirectClient(f"redis://127.0.0.1:{number}", PATIENCE)
        calls = [threads.submit(client.redirect, f"c{each}", "billing") for each in range(CONNECTIONS + 5)]
        errors = [str(call.exception()) for call in calls]
    assert all("nothing was sent" in error for error in errors)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Where a broker of the test's own lives: it may be frozen and restarted."""
    yield tmp_path / "home"
    embedded.stop(tmp_path / "home")


@pytest.fixture
def own_broker(home: Path) -> str:
    return embedded.start(home, ["broker"])["broker"]


@contextmanager
def frozen(home: Path) -> Iterator[None]:
    pid = recall(home)["broker"].pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_invariant_7_what_was_not_begun_at_a_frozen_broker_is_never_sent(home: Path, own_broker: str) -> None:
    """A new connection to it: nothing was sent, and nothing is sent when it wakes up, however the caller goes on."""
    client = RedirectClient(own_broker, PATIENCE)
    with frozen(home), bounded(), pytest.raises(BrokerUnavailable, match="nothing was sent"):
        client.redirect("c1", "billing")
    eventually(lambda: not sending())
    with Redis.from_url(own_broker) as broker:
        assert envelopes(broker) == []


def test_invariant_7_at_a_broker_that_freezes_between_calls_the_result_is_unknown(home: Path, own_broker: str) -> None:
    """It says so. Sent again as the error has it, the event is the same: it arrives once or twice, and counts once."""
    with RedirectClient(own_broker, PATIENCE) as client, Redis.from_url(own_broker) as broker:
        client.redirect("c0", "billing")
        with frozen(home), bounded(), pytest.raises(BrokerUnavailable, match="the result is unknown") as raised:
            client.redirect("c1", "billing")
        eventually(lambda: client.redirect_many(raised.value.events))
        assert [event for event in arrived(broker)[1:] if event not in raised.value.events] == []
        assert raised.value.events[0] in arrived(broker)


def test_events_that_were_confirmed_are_not_among_those_to_be_sent_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the broker fails in the middle of many, the error has the rest; and the connection is not kept."""
    before = connections(service.broker)
    fails(monkeypatch, "ok", "ok", "fails")
    with pytest.raises(BrokerUnavailable, match=r"the result is unknown.*: gone") as raised:
        RedirectClient(service.broker_url, timeout=10).redirect_many(numbered(500))
    assert len(arrived(service.broker)) == 400
    assert [event["conversation_id"] for event in raised.value.events] == [f"c{number}" for number in range(400, 500)]
    eventually(lambda: connections(service.broker) == before)


def test_a_connection_that_dies_in_the_middle_is_replaced_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was confirmed before is not sent again; and when the new one dies, too, the call fails."""
    with RedirectClient(service.broker_url, timeout=10) as client:
        client.redirect("c0", "billing")
        fails(monkeypatch, "ok", "ok", "fails", "ok")
        client.redirect_many(numbered(500))
        assert [len(json.loads(body)) for body in bodies(service.broker)] == [1, 200, 200, 100]
        fails(monkeypatch, "fails", "fails")
        with pytest.raises(BrokerUnavailable):
            client.redirect("c1", "billing")


def fails(monkeypatch: pytest.MonkeyPatch, *publishes: str) -> None:
    """What the next publishes of this process do."""
    monkeypatch.undo()
    publish, plan = Producer.publish, iter(publishes)

    def planned(*arguments: Any, **options: Any) -> Any:
        if next(plan) == "fails":
            raise OSError("gone")
        return publish(*arguments, **options)

    monkeypatch.setattr(Producer, "publish", planned)


def test_a_connection_that_died_while_idle_is_replaced(home: Path, own_broker: str) -> None:
    """After a restart of the broker the next call succeeds, with no word of it."""
    with RedirectClient(own_broker, timeout=10) as client:
        client.redirect("c1", "billing")
        embedded.stop(home, ["broker"])
        embedded.start(home, ["broker"])
        client.redirect("c2", "billing")
        with Redis.from_url(own_broker) as broker:
            assert "c2" in [event["conversation_id"] for event in arrived(broker)]
