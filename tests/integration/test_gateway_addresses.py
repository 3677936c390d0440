"""From where the gateway may be called: by which pages, under which names, and on which addresses it listens."""

import http.client
import subprocess
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.integration.gateways import SOON, Gateway, snapshot
from tests.integration.tokens import PRODUCER, SECRET, asking, offering, token
from tests.service import Service
from worker.embedded.processes import free_port

# Of this machine, but none of the addresses that are known to be: for the settings, strangers may call it.
STRANGE = "127.0.0.2"
KEYS = {"REDIRECT_JWT_SECRET": SECRET, "REDIRECT_HTTP_TOKENS": PRODUCER, "REDIRECT_HOSTS": f"Inbox.example, {STRANGE}"}


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    with asking(private, REDIRECT_HOSTS=KEYS["REDIRECT_HOSTS"]) as web:
        yield web


# Pages.


@pytest.mark.parametrize(
    "origin",
    [
        "https://elsewhere.example",
        "https://inbox.example.elsewhere.example",
        "https://elsewhere.example/inbox.example",
        "null",
    ],
)
def test_a_page_from_elsewhere_opens_no_socket(web: Gateway, origin: str) -> None:
    """403, however good the token is that a browser was made to bring."""
    with pytest.raises(InvalidStatus, match="403"), web.socket(origin=origin, **offering(token("7"))):
        pass


@pytest.mark.parametrize("origin", ["http://127.0.0.1:{}", "http://localhost:{}", "https://inbox.example", None])
def test_a_page_of_our_own_opens_one(web: Gateway, origin: str | None) -> None:
    """From this machine, of a name in REDIRECT_HOSTS, whatever its capitals, and a client that is no page."""
    with web.socket(origin=origin and origin.format(web.port), **offering(token("7"))) as live:
        assert snapshot(live) == []


@pytest.mark.parametrize(
    ("name", "status"), [("inbox.example", 200), ("Inbox.Example:443", 200), ("rebound.example", 400)]
)
def test_a_name_that_is_not_ours_is_refused(web: Gateway, name: str, status: int) -> None:
    """Or a page could have its own name resolve to our address. In names capitals say nothing (RFC 9110, 4.2.3)."""
    assert web.get("/healthz", Host=name).status == status


# Addresses.


@pytest.mark.parametrize("address", ["0.0.0.0", "::", STRANGE])
@pytest.mark.parametrize("left_out", [*KEYS, None])
def test_where_strangers_can_call_it_does_not_start_without_keys(
    service: Service, address: str, left_out: str | None
) -> None:
    """It ends with 1 at once and says what to set; None: nothing is set."""
    keys = {name: value for name, value in KEYS.items() if left_out not in (name, None)}
    process = service.spawn(
        "worker.gateway", environment={"REDIRECT_BIND": address, "PORT": str(free_port(None)), **keys}
    )
    try:
        assert process.popen.wait(30) == 1
        said = process.log.read_text()
        assert [name for name in KEYS if name in said] == [name for name in KEYS if name not in keys]
        assert "Traceback" not in said and "gateway ready" not in said
    finally:
        process.kill()


def test_with_keys_it_starts_on_any_address(service: Service) -> None:
    """And listens there only; it asks everybody for a token."""
    with asking(service, REDIRECT_BIND=STRANGE, REDIRECT_HOSTS=KEYS["REDIRECT_HOSTS"]) as web:
        assert [status(web.port, path) for path in ("/healthz", "/conversations")] == [200, 401]
        with connect(f"ws://{STRANGE}:{web.port}/ws", proxy=None, **offering(token("7"))) as live:
            assert snapshot(live) == []
        with pytest.raises(ConnectionRefusedError):
            web.socket()


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection(STRANGE, port, timeout=SOON)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_token_for_the_page_is_given_on_this_machine_only(service: Service) -> None:
    """REDIRECT_DEVELOPMENT is refused on any other address."""
    environment = {"REDIRECT_BIND": STRANGE, "PORT": str(free_port(None)), "REDIRECT_DEVELOPMENT": "true", **KEYS}
    process = service.spawn("worker.gateway", environment=environment)
    try:
        assert process.popen.wait(30) == 1
        assert process.says("REDIRECT_DEVELOPMENT")
    except subprocess.TimeoutExpired:
        pytest.fail("it has started")
    finally:
        process.kill()


def test_no_token_for_the_page_without_development(web: Gateway) -> None:
    """404: only `up` gives one."""
    assert web.get("/development-token").status == 404
