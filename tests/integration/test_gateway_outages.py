"""The gateway when what is behind it goes away, and when it goes away itself."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text
from websockets.exceptions import ConnectionClosed

from tests.eventually import eventually
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
from worker.db.session import psycopg2_url
from worker.embedded.home import recall


def test_after_redis_was_away_the_same_socket_gets_what_it_missed(service: Service, tmp_path: Path) -> None:
    """A restart of Redis closes no socket: each gets a snapshot, and then frames again."""
    home = tmp_path / "home"
    private = replace(service, redis_url=embedded.start(home, ["cache"])["cache"])
    try:
        first = redirect(private, "c1", "billing")
        with gateway(private) as web, web.socket() as live:
            assert snapshot(live) == [item(first)]
            embedded.stop(home, ["cache"])
            missed = redirect(private, "c1", "ai")
            eventually(lambda: web.process.says("live_lost"))
            assert web.get("/conversations/c1").body["cache_status"] == "unreachable"
            with web.socket() as newcomer:
                assert snapshot(newcomer) == [item(missed)]
            embedded.start(home, ["cache"])
            assert snapshot(live) == [item(missed)]
            last = redirect(private, "c1", "sales")
            publish(private, last)
            assert live.recv(timeout=SOON) == last
    finally:
        embedded.stop(home)


def test_a_frozen_redis_is_noticed(service: Service, tmp_path: Path) -> None:
    """A Redis that answers nobody, without closing a connection, is given up within seconds, and found again."""
    home = tmp_path / "home"
    private = replace(service, redis_url=embedded.start(home, ["cache"])["cache"])
    try:
        with gateway(private) as web, web.socket() as live:
            assert snapshot(live) == []
            with frozen(home):
                missed = redirect(private, "c1", "billing")
                eventually(lambda: web.process.says("live_lost"), within=15)
                assert web.get("/conversations/c1").body["cache_status"] == "unreachable"
            assert snapshot(live) == [item(missed)]
    finally:
        embedded.stop(home)


@contextmanager
def frozen(home: Path) -> Iterator[None]:
    pid = recall(home)["cache"].pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


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
            publish(service, of_version(first, version, padding="x" * 100_000))
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
