"""Connections that are no HTTP, or not yet: each ends, and that is no error of ours (which the log would have)."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.eventually import eventually
from tests.integration.gateways import Gateway
from tests.integration.tokens import PRODUCER, asking
from tests.service import Service

POST = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {PRODUCER}\r\nContent-Type: application/json\r\n"
CHUNKED = f"POST %s {POST}Transfer-Encoding: chunked\r\n\r\n"
CHUNKED_HEAD = "HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    with asking(private) as web:
        yield web


@contextmanager
def connected(web: Gateway, said: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as one:
        one.sendall(said.encode())
        yield one


def heard(one: socket.socket) -> bytes:
    """Everything, until the gateway ends it."""
    found = b""
    with suppress(ConnectionResetError):
        while more := one.recv(65536):
            found += more
    return found


@pytest.mark.parametrize("path", ["/events", "/nowhere", "/healthz"])
@pytest.mark.parametrize("chunk", ["fffffffffffffffffffff\r\n", "no number\r\n", "1\r\nxx\r\n"])
def test_a_body_that_is_no_http_is_answered_once(web: Gateway, path: str, chunk: str) -> None:
    """With the head, in one segment: 400, or what the application said before it came; never both."""
    with connected(web, CHUNKED % path + chunk) as one:
        answer = heard(one)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_an_answer_without_a_body_to_a_body_that_is_no_http(web: Gateway) -> None:
    """To HEAD: 400, and nothing behind its head."""
    with connected(web, CHUNKED_HEAD + "no number\r\n") as one:
        answer = heard(one)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")


def test_a_body_that_turns_out_to_be_no_http(web: Gateway) -> None:
    """After its first chunk: 400, and the application that waits for the rest is let go of."""
    with connected(web, CHUNKED % "/events" + "1\r\n[\r\n") as one:
        eventually(lambda: web.get("/healthz").status == 200)
        one.sendall(b"no number\r\n")
        assert heard(one).startswith(b"HTTP/1.1 400 ")


def test_a_request_that_never_comes_ends_its_connection(private: Service) -> None:
    """Nothing said, half a head, a head that drips in: closed. A body that takes as long is not. Times made short."""
    with asking(private, "tests.integration.hurried") as web, ExitStack() as held:
        body = '{"event_id": "slow", "conversation_id": "slow", "destination": "billing"}'
        slow = held.enter_context(connected(web, f"POST /events {POST}Content-Length: {len(body)}\r\n\r\n"))
        kept = held.enter_context(connected(web, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        kept.sendall(b"GET /healthz HT")
        silent, half, dripping = (held.enter_context(connected(web, said)) for said in ("", "GET / HT", "GET / HT"))
        eventually(lambda: ended(dripping, b"x"), every=0.1)
        assert [heard(one) for one in (silent, half)] == [b"", b""]
        assert b"HTTP/1.1" not in heard(kept)
        slow.sendall(body.encode())
        assert slow.recv(65536).startswith(b"HTTP/1.1 202 ")


def ended(one: socket.socket, drop: bytes) -> bool:
    """Whether there is nobody left to take another byte."""
    try:
        one.sendall(drop)
    except OSError:
        return True
    return False
