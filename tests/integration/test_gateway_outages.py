"""The gateway when what is behind it goes away, and when it goes away itself."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text
from websockets.exceptions import ConnectionClosed

from config.settings import DESTINATIONS
from tests.integration.gateways import (
    SOON,
    Gateway,
    gateway,
    item,
    of_version,
    publish,
    receive,
    redirect,
    snapshot,
    unread,
    waiting_for_a_lock,
)
from tests.service import Service
from worker import embedded
from worker.db.ledger import Ledger
from worker.db.session import psycopg2_url
from worker.embedded.home import recall
from worker.gateway.live import TOLD


def test_after_redis_was_away_the_same_socket_gets_what_it_missed(own_cache: tuple[Service, Path]) -> None:
    """A restart of Redis closes no socket: each is told, gets what moved meanwhile, and then frames."""
    private, home = own_cache
    first = redirect(private, "c1", "billing")
    other = redirect(private, "c2", "billing", owner_id="8")
    with gateway(private) as web, web.socket("?owner_id=7") as live:
        assert snapshot(live) == [item(first)]
        embedded.stop(home, ["cache"])
        assert receive(live) == {"type": "paused"}
        missed = redirect(private, "c1", "ai")
        assert web.get("/conversations/c1").body["cache_status"] == "unreachable"
        assert web.get("/readyz").status == 503
        with web.socket() as newcomer:
            assert snapshot(newcomer) == [item(missed), item(other)]
            assert receive(newcomer) == {"type": "paused"}
        embedded.start(home, ["cache"])
        assert receive(live) == {"type": "live"}
        assert receive(live) == json.loads(missed)
        last = redirect(private, "c1", "sales")
        publish(private, last)
        assert live.recv(timeout=SOON) == last
        assert web.get("/readyz").body["status"] == "ready"


@pytest.mark.slow
def test_a_frozen_redis_is_noticed(own_cache: tuple[Service, Path]) -> None:
    """A Redis that answers nobody, without closing a connection, is given up within seconds, and found again."""
    private, home = own_cache
    with gateway(private) as web, web.socket() as live:
        assert snapshot(live) == []
        with frozen(home):
            missed = redirect(private, "c1", "billing")
            assert json.loads(live.recv(timeout=15)) == {"type": "paused"}
            assert web.get("/conversations/c1").body["cache_status"] == "unreachable"
        assert receive(live) == {"type": "live"}
        assert receive(live) == json.loads(missed)


def test_after_an_outage_in_which_too_much_moved_everybody_gets_a_snapshot(own_cache: tuple[Service, Path]) -> None:
    """Thousands of frames for each of thousands of sockets would be another outage."""
    private, home = own_cache
    with gateway(private) as web, web.socket() as live:
        assert snapshot(live) == []
        embedded.stop(home, ["cache"])
        assert receive(live) == {"type": "paused"}
        ledger = Ledger(private.engine, DESTINATIONS, (), max_clock_skew=300)
        fields = {"destination": "billing", "owner_id": "7"}
        ledger.accept([fields | {"event_id": f"e{n}", "conversation_id": f"c{n}"} for n in range(TOLD + 1)])
        embedded.start(home, ["cache"])
        assert receive(live) == {"type": "live"}
        page = receive(live)
        assert (page["type"], len(page["conversations"]), "next" in page) == ("snapshot", 200, True)


@contextmanager
def frozen(home: Path) -> Iterator[None]:
    pid = recall(home)["cache"].pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_without_a_database_reads_say_when_to_come_back_and_live_frames_go_on(service: Service) -> None:
    """503 with Retry-After; sockets, new ones too, get frames, and the snapshot follows when the database is back."""
    first = redirect(service, "c1", "billing")
    with gateway(service) as web, web.socket() as live, ExitStack() as later:
        assert snapshot(live) == [item(first)]
        with away(service):
            answer = web.get("/conversations/c1")
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert web.get("/healthz").status == 200
            newcomer = later.enter_context(web.socket())
            publish(service, of_version(first, 2))
            assert receive(live)["version"] == receive(newcomer)["version"] == 2
            assert json.loads(web.get("/readyz").body)["checks"]["database"] == "does not answer"
        assert snapshot(newcomer) == [item(first)]
        assert web.get("/conversations/c1").status == 200


def test_a_database_that_hangs_holds_nothing_up(service: Service) -> None:
    """It is as good as away after two seconds; frames go on, and a read that hangs does not delay the end."""
    first = redirect(service, "c1", "billing")
    with gateway(service) as web, web.socket() as live, service.engine.begin() as holding:
        assert snapshot(live) == [item(first)]
        holding.execute(text("LOCK TABLE conversation_states IN ACCESS EXCLUSIVE MODE"))
        started = time.monotonic()
        assert web.get("/conversations/c1").status == 503
        assert time.monotonic() - started < 4
        publish(service, of_version(first, 2))
        assert receive(live)["version"] == 2
        assert waiting_for_a_lock(service)
        assert seconds_to_end(web, signal.SIGINT) < 2


def test_a_connection_that_died_while_idle_is_replaced(web: Gateway, private: Service) -> None:
    """After a restart of PostgreSQL the first read is answered, not refused."""
    redirect(private, "idle", "billing")
    assert web.get("/conversations/idle").status == 200
    with away(private):
        pass
    assert web.get("/conversations/idle").status == 200


@contextmanager
def away(service: Service) -> Iterator[None]:
    """This service's database refuses everybody until the block ends."""
    url = psycopg2_url(service.database_url)
    engine = create_engine(url.set(database="postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as admin:
        admin.execute(text(f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS false"))
        admin.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"), {"n": url.database}
        )
        try:
            yield
        finally:
            admin.execute(text(f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS true"))


# The end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_two_seconds_with_sockets_open(service: Service, number: signal.Signals) -> None:
    """A signal closes sockets with 1012 (come back), and one that is not read holds nothing up."""
    first = redirect(service, "c1", "billing")
    with gateway(service) as web, web.socket() as live, unread(web) as slow:
        snapshot(live), snapshot(slow)
        for version in range(2, 120):
            publish(service, of_version(first, 2, conversation_id=f"c{version}", padding="x" * 100_000))
            receive(live)
        assert seconds_to_end(web, number) < 2
        with pytest.raises(ConnectionClosed) as closed:
            receive(live)
        assert closed.value.rcvd and closed.value.rcvd.code == 1012


def seconds_to_end(web: Gateway, number: signal.Signals) -> float:
    started = time.monotonic()
    web.process.popen.send_signal(number)
    assert web.process.popen.wait(SOON) in (0, -number)
    return time.monotonic() - started


# Reads.
