"""Who may post events, in what form, and how it is told; before and while the body comes."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.eventually import eventually
from tests.integration.gateways import Gateway, gateway
from tests.integration.posting import JSON, chunks, event, outbox, post
from tests.service import Service
from worker.gateway.events import BODY_WITHIN
from worker.messages import LARGEST_BODY

TOKENS = "first-token-0123456789, second-token-0123456789"


@pytest.fixture(scope="module")
def guarded(private: Service) -> Iterator[Gateway]:
    """A gateway that asks for a token."""
    with gateway(private, REDIRECT_HTTP_TOKENS=TOKENS) as web:
        yield web


# Tokens.


@pytest.mark.parametrize(
    "header",
    [None, "Bearer", "Bearer ", "Bearer wrong", "Basic first-token-0123456789", f"Bearer {TOKENS}", "Bearer \xff"],
)
def test_without_a_token_it_is_401(guarded: Gateway, private: Service, header: str | None) -> None:
    """And the scheme is named, but none of the tokens; nothing is stored."""
    headers = {} if header is None else {"Authorization": header}
    answer = post(guarded, event("never"), **headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "token-" not in json.dumps(answer.body)
    assert "never" not in [one["event_id"] for one in outbox(private)]


def test_no_body_is_read_without_a_token(guarded: Gateway) -> None:
    """A stranger is answered before any of the announced body has come, and the connection is closed."""
    with raw(guarded, "Content-Length: 100") as connection:
        assert received(connection).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("header", ["Bearer first-token-0123456789", "bearer second-token-0123456789"])
def test_each_token_opens(guarded: Gateway, header: str) -> None:
    """Any of the tokens that are set; the scheme's name in any case."""
    assert post(guarded, [5], Authorization=header).status == 422


def test_a_token_is_never_printed(guarded: Gateway) -> None:
    """Not in the log of the gateway, whatever was asked."""
    assert "token-0123456789" not in guarded.process.log.read_text()


# Form.


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; " + JSON,
    ],
)
def test_what_a_web_page_can_send_unasked_is_415(web: Gateway, content_type: str | None) -> None:
    """A form or a simple fetch of another site gets no event in: the browser has to ask first."""
    answer = post(web, event("never"), content_type)
    assert answer.status == 415
    assert "application/json" in answer.body["detail"]


def test_a_compressed_body_is_415(web: Gateway) -> None:
    """It is said, instead of keeping it as no JSON."""
    assert post(web, event("never"), Content_Encoding="gzip").status == 415


def test_a_browser_that_asks_first_is_refused(web: Gateway) -> None:
    """No CORS: no page of another origin may post JSON."""
    with socket.create_connection(("127.0.0.1", web.port)) as connection:
        connection.sendall(
            b"OPTIONS /events HTTP/1.1\r\nHost: localhost\r\nOrigin: https://elsewhere.example\r\n"
            b"Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n"
        )
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 405")
    assert b"access-control" not in answer.lower()


# Size and time.


def test_too_long_a_body_is_413_by_its_length(web: Gateway) -> None:
    """Before any of it is read."""
    with raw(web, f"Content-Length: {LARGEST_BODY + 1}") as connection:
        assert received(connection).startswith(b"HTTP/1.1 413")


def test_too_long_a_body_is_413_while_it_comes(web: Gateway) -> None:
    """A chunked body announces no length."""
    with raw(web, "Transfer-Encoding: chunked") as connection:
        for piece in chunks(LARGEST_BODY):
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        assert received(connection).startswith(b"HTTP/1.1 413")


def test_the_longest_body_is_read(web: Gateway) -> None:
    """All 16 MiB of it, in chunks; it is the event in it that is too large."""
    answer = post(web, chunks(LARGEST_BODY - 65536))
    assert (answer.status, answer.body["rejected"][0]["code"]) == (422, "malformed")


@pytest.mark.slow
def test_a_body_that_drips_in_is_408(web: Gateway) -> None:
    """However steadily it drips, and others are answered meanwhile."""
    with raw(web, "Content-Length: 1000") as connection:
        started, done = time.monotonic(), threading.Event()
        dripping = threading.Thread(target=drip, args=(connection, done))
        dripping.start()
        assert post(web, [5]).status == 422
        connection.settimeout(BODY_WITHIN + 5)
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert BODY_WITHIN - 1 < time.monotonic() - started < BODY_WITHIN + 3
        done.set()
        dripping.join()


def test_a_producer_that_goes_away_is_no_error(web: Gateway) -> None:
    """Half a body stores nothing; the gateway's log has no traceback, which its fixture checks."""
    with raw(web, "Content-Length: 1000") as connection:
        connection.sendall(b"{")
    assert eventually(lambda: post(web, [5]).status == 422)


def drip(connection: socket.socket, done: threading.Event) -> None:
    try:
        while not done.wait(0.2):
            connection.sendall(b" ")
    except OSError:
        pass


def raw(web: Gateway, header: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", web.port), timeout=10)
    connection.sendall(f"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n{header}\r\n\r\n".encode())
    return connection


def received(connection: socket.socket) -> bytes:
    """All that is answered until the connection is closed."""
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer
