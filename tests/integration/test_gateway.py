"""The gateway as a browser meets it: a real process, real sockets, real servers behind it."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from sqlalchemy import NullPool, create_engine, text
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from config.settings import DESTINATIONS
from tests.conftest import make_service
from tests.eventually import eventually
from tests.service import Process, Service
from worker import embedded
from worker.db.ledger import Ledger
from worker.db.session import psycopg2_url
from worker.embedded.home import recall
from worker.embedded.processes import free_port
from worker.redirects import State
from worker.tasks.websocket import channel, frame

# A loaded machine is slow; a frame that is lost never comes.
SOON = 10.0
HTTP = build_opener(ProxyHandler({}))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Gateway:
    """A running gateway."""

    port: int
    process: Process

    def get(self, path: str, **headers: str) -> Answer:
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with HTTP.open(request, timeout=SOON) as answer:
                return Answer(answer.status, dict(answer.headers), json.load(answer))
        except HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read().decode())

    def socket(self, query: str = "", **options: Any) -> AbstractContextManager[ClientConnection]:
        options = {"proxy": None, "close_timeout": 1} | options
        live: ClientConnection = connect(f"ws://127.0.0.1:{self.port}/ws{query}", **options)
        return live


@contextmanager
def gateway(service: Service, **environment: str) -> Iterator[Gateway]:
    """A gateway that is ready; whatever happens to it, it must end without a traceback in its log."""
    port = free_port(None)
    with service.running("worker.gateway", ready="gateway ready", PORT=str(port), **environment) as process:
        yield Gateway(port, process)
    assert not process.says("Traceback"), process.log.read_text()


def redirect(service: Service, conversation_id: str, destination: str, owner_id: str | None = "7") -> str:
    """Move a conversation as the worker would, without telling anybody; returns its live frame."""
    event = {"conversation_id": conversation_id, "destination": destination, "owner_id": owner_id}
    ledger = Ledger(service.engine, DESTINATIONS, ("cache", "websocket", "record"), max_clock_skew=300)
    outcome = ledger.accept([event | {"event_id": f"e{time.monotonic_ns()}"}]).outcomes[0]
    assert outcome.outcome == "applied", outcome
    row = service.state(conversation_id)
    assert row
    return frame(State(**{name: row[name] for name in State.__slots__}))


def publish(service: Service, *frames: str) -> None:
    for one in frames:
        service.cache.publish(channel(json.loads(one)["owner_id"]), one)


def of_version(one: str, version: int, **more: Any) -> str:
    return json.dumps(json.loads(one) | {"version": version} | more)


def item(one: str) -> dict[str, Any]:
    """A frame as a snapshot shows it."""
    return {name: value for name, value in json.loads(one).items() if name != "type"}


def receive(live: ClientConnection) -> Any:
    return json.loads(live.recv(timeout=SOON))


def snapshot(live: ClientConnection) -> list[dict[str, Any]]:
    message = receive(live)
    assert message.keys() == {"type", "conversations"}, message
    assert message["type"] == "snapshot"
    conversations: list[dict[str, Any]] = message["conversations"]
    return conversations


# The live channel.


def test_a_snapshot_comes_first_and_then_what_is_published(service: Service) -> None:
    """A socket first gets every conversation, newest first, then each frame byte for byte."""
    first, second = redirect(service, "abc123", "billing"), redirect(service, "گفتگو", "sales", owner_id=None)
    with gateway(service) as web, web.socket() as live:
        assert snapshot(live) == [item(second), item(first)]
        moved = redirect(service, "abc123", "ai")
        publish(service, moved)
        assert live.recv(timeout=SOON) == moved


def test_a_redirect_reaches_the_browser(service: Service) -> None:
    """An event that a producer sends to a real worker arrives at an open socket."""
    with service.worker(), gateway(service) as web, web.socket("?owner_id=7") as live:
        assert snapshot(live) == []
        service.send({"event_id": "e1", "conversation_id": "c1", "destination": "billing", "owner_id": "7"})
        message = receive(live)
    assert message.pop("occurred_at")
    assert message == {
        "type": "conversation_updated",
        "conversation_id": "c1",
        "owner_id": "7",
        "status": "support_active",
        "ai_enabled": False,
        "destination": "billing",
        "version": 1,
        "event_id": "e1",
    }


def test_what_happens_while_the_snapshot_is_read_is_neither_lost_nor_doubled(service: Service) -> None:
    """Of two frames published during the read, the one that the snapshot holds is dropped and the other follows it."""
    first = redirect(service, "c1", "billing")
    second, third, fourth = (of_version(first, version) for version in (2, 3, 4))
    with gateway(service) as web, web.socket() as witness:
        assert snapshot(witness) == [item(first)]
        with service.engine.begin() as holding:
            holding.execute(text("LOCK TABLE conversation_states IN ACCESS EXCLUSIVE MODE"))
            with web.socket() as live:
                eventually(lambda: waiting_for_a_lock(service))
                publish(service, second, third)
                # One loop hands a frame to all feeds: what the witness has, the other feed has.
                assert (witness.recv(timeout=SOON), witness.recv(timeout=SOON)) == (second, third)
                holding.execute(text("UPDATE conversation_states SET version = 2"))
                holding.commit()
                assert snapshot(live) == [item(second)]
                publish(service, fourth)
                assert (live.recv(timeout=SOON), live.recv(timeout=SOON)) == (third, fourth)


def waiting_for_a_lock(service: Service) -> bool:
    return bool(
        service.rows("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    )


def test_a_socket_of_one_owner_sees_no_other(web: Gateway, private: Service) -> None:
    """`owner_id` limits the snapshot and the frames."""
    frames = [redirect(private, f"of {owner}", "billing", owner) for owner in ("ours", "theirs", None)]
    with web.socket("?owner_id=ours") as live:
        assert snapshot(live) == [item(frames[0])]
        ours, theirs, nobodys = (of_version(one, 2) for one in frames)
        publish(private, theirs, nobodys, ours)
        assert live.recv(timeout=SOON) == ours


def test_a_version_that_was_sent_is_not_sent_again(web: Gateway, private: Service) -> None:
    """Duplicates and late frames are dropped for each conversation, the snapshot's versions included."""
    one, other = redirect(private, "sent 1", "billing", "sent"), redirect(private, "sent 2", "billing", "sent")
    with web.socket("?owner_id=sent") as live:
        assert len(snapshot(live)) == 2
        publish(private, one, of_version(one, 3), of_version(one, 3), of_version(one, 2), of_version(other, 2))
        assert live.recv(timeout=SOON) == of_version(one, 3)
        assert live.recv(timeout=SOON) == of_version(other, 2)


@pytest.mark.parametrize("junk", [b"", b"no JSON", b"\xff\xfe", b"[]", b'{"version": 1}', b"[" * 100_000])
def test_what_is_no_frame_is_passed_over(web: Gateway, private: Service, junk: bytes) -> None:
    """Junk on the channel is dropped, and the frame behind it arrives."""
    good = redirect(private, f"after {junk[:9]!r}", "billing")
    with web.socket() as live:
        snapshot(live)
        private.cache.publish("conversations.7", junk)
        publish(private, of_version(good, 2))
        assert receive(live)["version"] == 2


def test_a_burst_is_passed_on_whole(web: Gateway, private: Service) -> None:
    """A pipeline of many frames overflows nobody who reads: they all come, and no snapshot in their place."""
    first = redirect(private, "burst", "billing", "burst")
    with web.socket("?owner_id=burst") as live:
        snapshot(live)
        with private.cache.pipeline(transaction=False) as pipeline:
            for version in range(2, 3002):
                pipeline.publish(channel("burst"), of_version(first, version))
            pipeline.execute()
        assert [receive(live).get("version") for _ in range(3000)] == list(range(2, 3002))


def test_a_slow_reader_delays_nobody_and_gets_a_snapshot_instead_of_its_backlog(service: Service) -> None:
    """While one socket is not read, another gets each frame at once; the slow one then gets what holds now."""
    first = redirect(service, "c1", "billing")
    frames = [of_version(first, version, padding="x" * 100_000) for version in range(2, 352)]
    with gateway(service) as web, web.socket() as quick, unread(web) as slow:
        snapshot(quick), snapshot(slow)
        for one in frames:
            publish(service, one)
            assert quick.recv(timeout=SOON) == one
        with service.engine.begin() as connection:
            connection.execute(text("UPDATE conversation_states SET version = 351"))
        before = frames_until_snapshot_of(351, slow)
        assert before == list(range(2, 2 + len(before)))
        assert len(before) < 150, "the backlog was sent"
        publish(service, of_version(first, 352))
        assert receive(slow)["version"] == receive(quick)["version"] == 352


@contextmanager
def unread(web: Gateway) -> Iterator[ClientConnection]:
    """A socket that takes in almost nothing until it is asked for."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    plain.connect(("127.0.0.1", web.port))
    with web.socket(sock=plain, max_queue=1, close_timeout=0.1) as slow:
        yield slow


def frames_until_snapshot_of(version: int, live: ClientConnection) -> list[int]:
    versions = []
    while (message := receive(live))["type"] != "snapshot":
        versions.append(message["version"])
    assert [one["version"] for one in message["conversations"]] == [version]
    return versions


# Outages.


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


@pytest.fixture(scope="module")
def private(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """One service for the tests that do it no harm; each uses ids of its own."""
    return make_service(servers, tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    with gateway(private) as web:
        yield web


def test_a_conversation_is_shown_with_its_copies(web: Gateway, private: Service) -> None:
    """State, record, what is behind, what was asked, and what the AI reads now."""
    redirect(private, "shown", "billing")
    body = web.get("/conversations/shown").body
    assert (body["state"]["destination"], body["state"]["version"]) == ("billing", 1)
    assert [effect["kind"] for effect in body["side_effects"]] == ["cache", "websocket", "record"]
    assert [one["outcome"] for one in body["redirects"]] == ["applied"]
    assert body["record"] is None
    assert (body["cache"], body["cache_status"]) == (None, "absent")


@pytest.mark.parametrize("value", ["", "no JSON", '{"version": NaN}', "1e999", r'"\ud800"', "[" * 100_000])
def test_a_cache_that_is_no_json_is_shown_as_text(web: Gateway, private: Service, value: str) -> None:
    """Whatever another program put under the key, the conversation can be read, and what is there is said."""
    assert cached(web, private, value) == (value, "unreadable")


def test_the_cache_is_shown_as_it_is(web: Gateway, private: Service) -> None:
    """The value that the AI reads, though it is not ours; what is no text is shown as far as it goes."""
    assert cached(web, private, '{"version": 1, "note": "سلام"}') == ({"version": 1, "note": "سلام"}, "present")
    assert cached(web, private, b"\xff") == ("\ufffd", "unreadable")


def cached(web: Gateway, service: Service, value: str | bytes) -> tuple[object, str]:
    """What is shown of a conversation whose key holds `value`."""
    conversation_id = f"cache {value[:20]!r}"
    redirect(service, conversation_id, "billing")
    service.cache.set(f"ai_control_{conversation_id}", value)
    body = web.get(f"/conversations/{quote(conversation_id)}").body
    return body["cache"], body["cache_status"]


def test_an_id_may_hold_a_slash(web: Gateway, private: Service) -> None:
    """Every id that the contract allows can be read."""
    redirect(private, "a/b گفتگو", "billing")
    assert web.get(f"/conversations/{quote('a/b گفتگو', safe='')}").body["state"]["conversation_id"] == "a/b گفتگو"


def test_an_unknown_conversation_is_404(web: Gateway) -> None:
    """The answer is JSON and names the id."""
    answer = web.get("/conversations/nobody")
    assert (answer.status, json.loads(answer.body)) == (404, {"detail": "there is no conversation 'nobody'"})


def test_an_impossible_id_is_refused(web: Gateway) -> None:
    """NUL, which no text in PostgreSQL holds, is a client's error and not ours."""
    assert web.get("/conversations/a%00b").status == 422
    with pytest.raises(InvalidStatus, match="403"), web.socket("?owner_id=a%00b"):
        pass


def test_the_destinations_are_those_of_the_settings(web: Gateway) -> None:
    """Value and label, in the order of the settings."""
    answer = web.get("/destinations").body
    assert answer[0] == {"value": "ai", "label": "AI Assistant"}
    assert {one["value"]: one["label"] for one in answer} == DESTINATIONS


def test_health_depends_on_nothing(service: Service) -> None:
    """A gateway that reaches neither Redis nor PostgreSQL starts, lives and says so."""
    nowhere = f"127.0.0.1:{free_port(None)}"
    with gateway(service, REDIS_URL=f"redis://{nowhere}/0", DATABASE_URL=f"postgresql://{nowhere}/none") as web:
        assert (web.get("/healthz").status, web.get("/healthz").body) == (200, {"status": "ok"})


def test_only_this_machine_is_listened_to(web: Gateway) -> None:
    """A page of the web reaches it neither by a name for 127.0.0.1 nor by a WebSocket of its own; local pages do."""
    assert web.get("/destinations", Host="rebound.example").status == 400
    for origin in ("https://elsewhere.example", "null", "http://["):
        with pytest.raises(InvalidStatus, match="403"), web.socket(origin=origin):
            pass
    with web.socket(origin="http://localhost:3000") as live:
        snapshot(live)
