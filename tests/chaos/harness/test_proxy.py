"""The proxy does to a connection what the scenarios say it does."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.chaos.harness.proxy import Proxy

pytestmark = pytest.mark.quick


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Before a server that says back what it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while data := connection.recv(1000):
                    connection.sendall(data)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with Proxy(server.getsockname()[1]) as proxy:
            yield proxy
        server.shutdown(socket.SHUT_RDWR)


def connected(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    connection.sendall(b"hello")
    assert connection.recv(10) == b"hello"
    return connection


def test_it_passes_on_and_can_be_slow(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        proxy.latency = 0.2
        began = time.monotonic()
        connection.sendall(b"late")
        assert connection.recv(10) == b"late"
        assert time.monotonic() - began >= 0.4
        proxy.heal()
        proxy.rate = 50
        began = time.monotonic()
        connection.sendall(b"x" * 20)
        received = b""
        while len(received) < 20:
            received += connection.recv(20)
        assert time.monotonic() - began >= 0.4


def test_nothing_leaves_a_black_hole_until_it_heals(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        proxy.black_hole()
        connection.sendall(b"swallowed")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        proxy.heal()
        connection.settimeout(10)
        assert connection.recv(10) == b"swallowed"


def test_a_reset_ends_what_is_there_and_a_refusal_also_what_comes(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(10)
    connected(proxy).close()
    proxy.refuse()
    with pytest.raises(OSError):
        connected(proxy)
    proxy.heal()
    connected(proxy).close()


def test_what_is_stranded_arrives_late_and_new_connections_pass(proxy: Proxy) -> None:
    with connected(proxy) as old:
        proxy.strand()
        old.sendall(b"late")
        connected(proxy).close()
        old.settimeout(0.3)
        with pytest.raises(TimeoutError):
            old.recv(10)
        proxy.heal()
        old.settimeout(10)
        assert old.recv(10) == b"late"


def test_an_answer_is_swallowed_after_the_server_has_given_it(proxy: Proxy) -> None:
    with connected(proxy) as connection, connected(proxy) as other:
        proxy.swallow_answer(b"commit")
        connection.sendall(b"begin")
        assert connection.recv(10) == b"begin"
        connection.sendall(b"commit")
        assert connection.recv(10) == b""
        assert proxy.unanswered == 1
        other.sendall(b"commit")
        assert other.recv(10) == b"commit"
