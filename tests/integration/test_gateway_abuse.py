"""Sockets that say too much, too large things, nothing at all, or are too many; and that nobody else notices them."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection

from tests.eventually import eventually
from tests.integration.gateways import SOON, Gateway, of_version, publish, redirect, snapshot
from tests.integration.tokens import asking, close_code, closed_with, offering, token
from tests.service import Service
from worker.gateway.__main__ import PING_EVERY
from worker.gateway.pages import cursor
from worker.gateway.sockets import BURST
from worker.gateway.websocket import CLOSED_WITHIN

# Seconds in which a frame reaches a socket, on a loaded machine, if nothing holds the loop up.
PROMPT = 2.0
NOTHING = json.dumps({"type": "authenticate", "token": "again"})


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    with asking(private) as web:
        yield web


class Witness:
    """Another client: what is published for it comes at once, whatever others do."""

    def __init__(self, service: Service, live: ClientConnection, frame: str) -> None:
        self._service, self._live, self._frame, self._version = service, live, frame, 1

    def sees_the_next(self, within: float = PROMPT) -> bool:
        self._version += 1
        one = of_version(self._frame, self._version)
        publish(self._service, one)
        assert self._live.recv(timeout=within) == one
        return True


@contextmanager
def witness(service: Service, web: Gateway) -> Iterator[Witness]:
    """Of an owner of its own, who sees nobody else's frames."""
    owner_id = f"witness {time.monotonic_ns()}"
    frame = redirect(service, f"of {owner_id}", "billing", owner_id)
    with web.socket(**offering(token(owner_id))) as live:
        assert len(snapshot(live)) == 1
        yield Witness(service, live, frame)


# Too much.


def test_fifty_messages_at_once_are_taken(web: Gateway) -> None:
    """And answered, each of them."""
    page = json.dumps({"type": "page", "after": cursor({"updated_at": datetime.now(UTC), "conversation_id": ""})})
    with web.socket(**offering(token("7"))) as live:
        snapshot(live)
        for _ in range(BURST):
            live.send(page)
        assert {json.loads(live.recv(timeout=10))["type"] for _ in range(BURST)} == {"page"}


def test_ten_thousand_messages_end_their_socket_and_delay_nobody(web: Gateway, private: Service) -> None:
    """4429, while another socket keeps getting its frames."""
    with web.socket(**offering(token("7"))) as live, witness(private, web) as other:
        flood = threading.Thread(target=say, args=(live, NOTHING, 10_000))
        flood.start()
        eventually(lambda: other.sees_the_next() and not flood.is_alive(), every=0)
        assert close_code(live) == 4429
        assert other.sees_the_next()


def test_a_frame_of_two_mebibytes_ends_its_socket_and_delays_nobody(web: Gateway, private: Service) -> None:
    """1009, also for one that is just too long; the largest is read to its end."""
    with witness(private, web) as other:
        assert [code_after(web, " " * size) for size in (16 * 1024, 16 * 1024 + 1, 2 * 1024 * 1024)] == [
            4400,
            1009,
            1009,
        ]
        assert other.sees_the_next()


def test_who_is_still_sending_too_much_sees_the_close_frame(web: Gateway) -> None:
    """It may send to the end: a reset, which a close with bytes unread is, may reach it before 1009 does."""
    frame = Frame(Opcode.TEXT, b" " * 2 * 1024 * 1024).serialize(mask=True)
    with plain(web, token("7")) as raw:
        raw.sendall(frame[:1000])
        assert eventually(lambda: b"\x03\xf1" in raw.recv(8192, socket.MSG_PEEK))  # 1009
        for start in range(1000, len(frame), 65536):
            raw.sendall(frame[start : start + 65536])
        raw.shutdown(socket.SHUT_WR)
        assert eventually(lambda: not raw.recv(8192))


def code_after(web: Gateway, message: str) -> int:
    with web.socket(**offering(token("7"))) as live:
        snapshot(live)
        say(live, message, 1)
        return close_code(live)


def say(live: ClientConnection, message: str, times: int) -> None:
    """Until the socket is closed."""
    with suppress(ConnectionClosed):
        for _ in range(times):
            live.send(message)


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00+00:00:00.000001"]
)
def test_a_place_where_no_page_ended_is_no_error_of_ours(web: Gateway, moment: str) -> None:
    """A page, or 4400."""
    after = base64.urlsafe_b64encode(json.dumps([moment, "c1"]).encode()).decode()
    with web.socket(**offering(token("7"))) as live:
        snapshot(live)
        live.send(json.dumps({"type": "page", "after": after}))
        try:
            assert json.loads(live.recv(timeout=SOON)) == {"type": "page", "conversations": []}
        except ConnectionClosed as closed:
            assert closed.rcvd and closed.rcvd.code == 4400


NO_TEXT = Frame(Opcode.TEXT, b"\xff").serialize(mask=True)
BYE = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
PING = Frame(Opcode.PING, b"").serialize(mask=True)
BROKEN = {"reserved bits": b"\xff\xff", "no mask": b"\x81\x05", "no text": NO_TEXT, "no text after all": BYE + NO_TEXT}
BROKEN["no text, and a ping"] = NO_TEXT + PING


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("first", ["no JSON", NOTHING], ids=["wrong", "right"])
def test_a_message_and_then_what_is_none(web: Gateway, first: str, broken: bytes) -> None:
    """In one segment: the socket is closed, and that is no error of ours (which the gateway's log would have)."""
    with plain(web, token("7")) as raw:
        raw.sendall(Frame(Opcode.TEXT, first.encode()).serialize(mask=True) + broken)
        assert eventually(lambda: not is_open(web, raw))
    assert web.get("/healthz").status == 200


def test_who_never_closes_what_was_closed_is_disconnected(private: Service) -> None:
    """Broken, told so, and still there. With the times made short."""
    assert CLOSED_WITHIN == 10
    with asking(private, "tests.integration.hurried") as web, plain(web, token("7")) as raw:
        raw.sendall(BROKEN["no mask"])
        eventually(lambda: not is_open(web, raw))
        assert held(web, raw)
        eventually(lambda: not held(web, raw))


# Nothing at all.


@pytest.mark.slow
def test_who_never_answers_is_disconnected(private: Service) -> None:
    """A client that vanished without a word: its connection ends, also with frames on their way to it, and others get
    theirs meanwhile. With the times made short.
    """
    assert PING_EVERY == 20
    with asking(private, "tests.integration.hurried") as web, witness(private, web) as other, ExitStack() as gone:
        silent, behind = (gone.enter_context(plain(web, token(owner))) for owner in ("silent", "behind"))
        large = of_version(redirect(private, "large", "billing", "behind"), 2, padding="x" * 500_000)
        for number in range(20):
            publish(private, of_version(large, 2, conversation_id=f"large {number}"))
        assert is_open(web, silent) and is_open(web, behind)
        eventually(lambda: other.sees_the_next() and not is_open(web, silent), within=10)
        eventually(lambda: other.sees_the_next() and not is_open(web, behind), within=10)
        # Longer than the others had: who answers stays.
        started = time.monotonic()
        eventually(lambda: other.sees_the_next() and time.monotonic() - started > 3, every=0.2)


@contextmanager
def plain(web: Gateway, shown: str) -> Iterator[socket.socket]:
    """A socket that was accepted, and from which nothing is read any more; it takes in almost nothing."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        raw.connect(("127.0.0.1", web.port))
        lines = (
            "GET /ws HTTP/1.1",
            f"Host: 127.0.0.1:{web.port}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Sec-WebSocket-Protocol: redirect.v1, bearer.{shown}",
        )
        raw.sendall("\r\n".join((*lines, "", "")).encode())
        assert raw.recv(12) == b"HTTP/1.1 101"
        yield raw


def is_open(web: Gateway, raw: socket.socket) -> bool:
    """Whether the gateway still holds the other end."""
    return any(one.status == psutil.CONN_ESTABLISHED for one in held(web, raw))


def held(web: Gateway, raw: socket.socket) -> list[Any]:
    """The gateway's end of this connection, if it has one."""
    connections = psutil.Process(web.process.popen.pid).net_connections("tcp")
    return [one for one in connections if tuple(one.raddr) == raw.getsockname()]


# Too many.


def test_a_token_has_so_many_sockets(private: Service) -> None:
    """REDIRECT_SOCKETS_PER_TOKEN: one more is closed with 4429, but not one of another token."""
    shown = token("7")
    with asking(private, REDIRECT_SOCKETS_PER_TOKEN="2") as web, web.socket(**offering(shown)) as first:
        snapshot(first)
        with web.socket(**offering(shown)) as second, web.socket(**offering(token("8"))) as anothers:
            assert snapshot(second) == snapshot(anothers) == []
            assert closed_with(web, shown) == 4429
        eventually(lambda: gets_in(web, shown))


def test_a_gateway_has_so_many_sockets(private: Service) -> None:
    """REDIRECT_SOCKETS: one more is closed with 1013, whose ever it is."""
    with asking(private, REDIRECT_SOCKETS="2") as web, web.socket(**offering(token("7"))) as first:
        snapshot(first)
        with web.socket(**offering(token("8"))) as second:
            snapshot(second)
            assert closed_with(web, token("9")) == 1013
        eventually(lambda: gets_in(web, token("9")))


def gets_in(web: Gateway, shown: str) -> bool:
    """Whether there is a place again."""
    with web.socket(**offering(shown)) as live, suppress(ConnectionClosed):
        return snapshot(live) == []
    return False
