"""The clients of examples/live, run as their readers would: each follows an inbox, also through a gateway's restart."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from config.settings import DESTINATIONS
from tests.eventually import eventually
from tests.integration.gateways import item, publish, redirect
from tests.service import Process, Service
from worker.db.ledger import Ledger
from worker.embedded.processes import free_port
from worker.gateway.feed import BACKLOG
from worker.gateway.tokens import issue

EXAMPLES = Path(__file__).parents[2] / "examples" / "live"
SECRET = "a-secret-of-more-than-thirty-two-characters"


@dataclass
class Client:
    """A running example: what it has printed, and what it complained about."""

    popen: subprocess.Popen[bytes]
    output: Path
    errors: Path

    @property
    def changes(self) -> list[Any]:
        return [json.loads(line) for line in self.output.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def has_printed(self, *frames: str) -> bool:
        """Whether these are all, in this order; as an assertion, so that a wait that fails says what is wrong."""
        assert self.errors.read_text() == ""
        assert self.changes == [item(one) for one in frames]
        return True


@pytest.fixture(scope="module")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples with what the Node client depends on installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    copy = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("node_modules"))
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--no-update-notifier", "--cache", str(copy / "cache"))
    subprocess.run(["npm", "install", *quiet, "--prefix", str(copy)], check=True, capture_output=True, timeout=120)
    return copy


@pytest.fixture(params=["python", "node"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """What starts the client."""
    if request.param == "python":
        return [sys.executable, str(EXAMPLES / "follow.py")]
    return ["node", str(request.getfixturevalue("node_example") / "follow.mjs")]


@contextmanager
def following(command: list[str], folder: Path, port: int, *owner_ids: str, secret: str = SECRET) -> Iterator[Client]:
    only = {name: os.environ[name] for name in ("HOME", "PATH", "LANG") if name in os.environ}
    told = {"LIVE_URL": f"ws://127.0.0.1:{port}/ws", "TOKEN": issue(secret, 600, owner_ids)}
    client_output, errors = folder / "client.out", folder / "client.err"
    with client_output.open("wb") as out, errors.open("wb") as err:
        popen = subprocess.Popen(command, env=only | told, stdout=out, stderr=err)
    try:
        yield Client(popen, client_output, errors)
    finally:
        popen.kill()
        popen.wait(10)


@contextmanager
def gateway(service: Service, port: int) -> Iterator[Process]:
    """A gateway on a port that another one may have had."""
    environment = {"PORT": str(port), "REDIRECT_JWT_SECRET": SECRET}
    with service.running("worker.gateway", ready="gateway ready", **environment) as process:
        yield process
    assert not process.says("Traceback"), process.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL])
def test_a_client_follows_through_a_restart(
    service: Service, tmp_path: Path, command: list[str], ends: signal.Signals
) -> None:
    """The snapshot, a change, what it missed while the gateway was away and nothing twice, and then changes again."""
    port = free_port(None)
    still, first = redirect(service, "c0", "billing"), redirect(service, "c1", "billing")
    other = redirect(service, "not ours", "billing", owner_id="8")
    with following(command, tmp_path, port, "7") as client:
        with gateway(service, port) as process:
            eventually(lambda: client.has_printed(first, still))
            moved = redirect(service, "c1", "ai")
            publish(service, moved, other)
            eventually(lambda: client.has_printed(first, still, moved))
            process.kill(ends)
        quiet = redirect(service, "c2", "sales")
        missed = redirect(service, "c1", "support")
        with gateway(service, port):
            eventually(lambda: client.has_printed(first, still, moved, missed, quiet))
            last = redirect(service, "c2", "ai")
            publish(service, last)
            eventually(lambda: client.has_printed(first, still, moved, missed, quiet, last))
            assert client.popen.poll() is None


def test_a_client_prints_each_version_once(tmp_path: Path, command: list[str]) -> None:
    """What comes twice or late is dropped, an owner that becomes known is not, and unknown types are ignored.

    From a server that says what a gateway seldom does.
    """
    one: dict[str, Any] = {"conversation_id": "c1", "version": 2, "owner_id": None, "status": "active"}
    late, owned, newer = (
        one | {"version": 1, "owner_id": "7"},
        one | {"owner_id": "7"},
        one | {"version": 3, "owner_id": "7"},
    )
    said = [
        {"type": "snapshot", "conversations": [one]},
        *({"type": "conversation_updated"} | each for each in (one, late, owned, owned)),
        {"type": "typing"} | newer | {"version": 9},
        {"type": "paused"},
        {"type": "live"},
        {"type": "snapshot", "conversations": [owned]},
        {"type": "conversation_updated"} | newer,
    ]
    with saying(said) as port, following(command, tmp_path, port, "7") as client:
        eventually(lambda: newer in client.changes)
        assert client.changes == [one, owned, newer]


@contextmanager
def saying(messages: list[dict[str, Any]]) -> Iterator[int]:
    """The port of a server that says these, and then waits."""

    def say(live: ServerConnection) -> None:
        for message in messages:
            live.send(json.dumps(message))
        with suppress(ConnectionClosed):
            live.recv()

    with serve(say, "127.0.0.1", 0, subprotocols=[Subprotocol("redirect.v1")]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


def test_a_client_reads_all_pages(service: Service, tmp_path: Path, command: list[str]) -> None:
    """Conversations beyond the snapshot are asked for, page by page, and each is printed once, the newest first."""
    port, ids = free_port(None), [f"c{number:03}" for number in range(2 * BACKLOG + 5)]
    fields = {"destination": "ai", "owner_id": "7"}
    ledger = Ledger(service.engine, DESTINATIONS, (), max_clock_skew=300)
    ledger.accept([fields | {"event_id": f"of {one}", "conversation_id": one} for one in ids])
    with gateway(service, port), following(command, tmp_path, port, "7") as client:
        eventually(lambda: len(client.changes) >= len(ids))
        assert [one["conversation_id"] for one in client.changes] == ids[::-1]


def test_a_client_ends_where_connecting_again_cannot_help(service: Service, tmp_path: Path, command: list[str]) -> None:
    """A token that is not valid: it says so and exits with 1."""
    port = free_port(None)
    with gateway(service, port), following(command, tmp_path, port, "7", secret=SECRET[::-1]) as client:
        assert client.popen.wait(30) == 1
        assert "4401" in client.errors.read_text()
        assert client.changes == []
