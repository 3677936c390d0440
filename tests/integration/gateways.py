"""A gateway under test, and what its browsers receive."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from websockets.sync.client import ClientConnection, connect

from config.settings import DESTINATIONS
from tests.service import Process, Service
from worker.db.ledger import Ledger
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

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """The answer; its body is read as JSON if it is a good one."""
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers=headers, method=method)
        try:
            with HTTP.open(request, timeout=SOON) as answer:
                body = answer.read().decode()
                is_json = answer.headers.get_content_type() == "application/json"
                return Answer(answer.status, dict(answer.headers), json.loads(body) if is_json else body)
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


def waiting_for_a_lock(service: Service) -> bool:
    return bool(
        service.rows("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    )


@contextmanager
def unread(web: Gateway) -> Iterator[ClientConnection]:
    """A socket that takes in almost nothing until it is asked for."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    plain.connect(("127.0.0.1", web.port))
    with web.socket(sock=plain, max_queue=1, close_timeout=0.1) as slow:
        yield slow
