"""Bytes that would run as code, by every way in: nothing unpickles them, nothing dies of them."""

import json
import pickle
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange

from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.gateways import Gateway, snapshot
from tests.integration.posting import post
from tests.poison import event
from tests.security.bombs import Bomb, bombs, pickled, tagged, yaml
from tests.security.test_flower_door import FLOWER, asked
from tests.service import Process, Service
from worker import stack
from worker.embedded.processes import free_port
from worker.hosts.pilito import flag

QUEUES = ("redirects", "effects.cache", "effects.websocket", "effects.record", "maintenance")


@dataclass
class Target:
    """Everything that reads something, and the file that a bomb would make."""

    service: Service
    web: Gateway
    flower: int
    processes: list[Process]
    file: Path

    def stands(self, event_id: str) -> bool:
        """No bomb has gone off; all processes are there, and a healthy event is done."""
        self.service.send(event(event_id))
        eventually(lambda: self.service.cached(event_id), within=60)
        assert all(process.running for process in self.processes)
        assert not list(self.file.parent.glob("went-off*"))
        return True

    def publish(self, bomb: Bomb, exchange: str | Exchange = "", routing_key: str = "") -> None:
        with Connection(self.service.broker_url) as connection:
            producer: Any = connection.Producer(auto_declare=False)
            producer.publish(
                bomb.body,
                exchange=exchange,
                routing_key=routing_key,
                content_type=bomb.content_type,
                content_encoding=bomb.content_encoding,
                headers=bomb.headers,
            )


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def target(
    request: pytest.FixtureRequest, servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """A worker that also gossips and mingles, the intake, a gateway and Flower."""
    broker = request.getfixturevalue("rabbitmq").vhost() if request.param == "rabbitmq" else None
    folder = tmp_path_factory.mktemp("bombs")
    service = make_service(servers, folder, broker)
    ports = {name: str(free_port(None)) for name in ("PORT", "REDIRECT_FLOWER_PORT")}
    service.extra.update(ports)
    with ExitStack() as stack_of:
        processes = [
            stack_of.enter_context(service.running(*words, ready=ready))
            for words, ready in (
                (("celery", "-A", "worker.app", "worker"), " ready."),
                (("worker.intake",), "reading the JSON queue"),
                (("worker.gateway",), "gateway ready"),
                (FLOWER, None),
            )
        ]
        flower = int(ports["REDIRECT_FLOWER_PORT"])
        eventually(lambda: stack.listens(flower), within=60)
        yield Target(service, Gateway(int(ports["PORT"]), processes[2]), flower, processes, folder / "went-off")


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    """The file is made by whoever unpickles it."""
    for protocol in (0, 2, 5):
        file = tmp_path / str(protocol)
        pickle.loads(pickled(file, protocol))
        assert file.exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_as_a_celery_message(target: Target) -> None:
    """On every queue, in every dress: each is in rejected_events, byte for byte, but for what says that it is JSON."""
    sent = {queue: list(bombs(target.file, f"to-{queue}")) for queue in QUEUES}
    for queue, each in sent.items():
        for bomb in each:
            target.publish(bomb, routing_key=queue)
    number = sum(map(len, sent.values()))
    count = "SELECT count(*) AS n FROM rejected_events WHERE body LIKE '%%to-%%'"
    eventually(lambda: target.service.rows(count)[0]["n"] == number, within=120)
    assert target.stands("behind the messages")


@pytest.mark.slow
def test_on_the_json_queue(target: Target) -> None:
    """What is no JSON is kept, whatever its content type says."""
    sent = {bomb.body: bomb for bomb in bombs(target.file, "json")}
    for bomb in [*sent.values(), Bomb(tagged(target.file), "application/json")]:
        target.publish(bomb, "workflow", "workflow.redirect")
    kept = "SELECT count(*) AS n FROM rejected_events WHERE source = 'workflow.redirects'"
    eventually(lambda: target.service.rows(kept)[0]["n"] == len(sent) + 1, within=60)
    assert target.stands("behind the queue")


@pytest.mark.slow
def test_over_http(target: Target) -> None:
    """415 for what says that it is none of ours, 422 for what says that it is."""
    for bomb in bombs(target.file, "http"):
        answer = post(target.web, bomb.body, bomb.content_type, Content_Encoding="identity")
        assert answer.status == (422 if bomb.content_type == "application/json" else 415), bomb.content_type
    assert post(target.web, pickled(target.file), "application/json", Content_Encoding="gzip").status == 415
    assert target.stands("behind the requests")


@pytest.mark.slow
def test_in_the_outbox(target: Target) -> None:
    """A row of JSON can hold it as text only: refused and kept."""
    file = target.file.with_name("went-off-too")  # or it would be what another test has sent, which is kept once
    texts = (pickled(file, 0).decode("latin-1"), yaml(file).decode())
    bodies = [*map(json.dumps, texts), tagged(file).decode()]
    with target.service.engine.begin() as connection:
        for body in bodies:
            connection.exec_driver_sql("INSERT INTO event_outbox (body) VALUES (%s)", (body,))
    kept = "SELECT count(*) AS n FROM rejected_events WHERE source = 'event_outbox'"
    eventually(lambda: target.service.rows(kept)[0]["n"] == len(bodies), within=60)
    assert target.stands("behind the outbox")


@pytest.mark.slow
def test_as_a_cache_key(target: Target) -> None:
    """The gateway says that it cannot be read; the next redirect writes over it."""
    assert target.stands("cached")
    target.service.cache.set("ai_control_cached", pickled(target.file, 0).decode("latin-1"))
    assert target.web.get("/conversations/cached").body["cache_status"] == "unreadable"
    target.service.send(event("again", conversation_id="cached", destination="sales"))
    eventually(lambda: "sales" in str(target.service.cache.get("ai_control_cached")), within=30)
    assert not target.file.exists()


@pytest.mark.slow
def test_on_the_live_channel(target: Target) -> None:
    """Dropped: the socket gets the next frame."""
    with target.web.socket() as socket:
        snapshot(socket)
        for body in (pickled(target.file), yaml(target.file), tagged(target.file)):
            target.service.cache.publish("conversations.7", body)
        target.service.send(event("behind the channel", owner_id="7"))
        assert "behind the channel" in str(socket.recv(timeout=30))
    assert target.stands("behind the channel too")


@pytest.mark.slow
def test_as_a_control_command_and_as_an_event(target: Target) -> None:
    """Worker and Flower drop it, and hear the next: commands are answered, and Flower knows the newest task."""
    kind = "fanout" if target.service.broker_url.startswith("redis") else "topic"
    for bomb in bombs(target.file, "control"):
        target.publish(bomb, Exchange("celery.pidbox", type="fanout"))
        target.publish(bomb, Exchange("celeryev", type=kind), "task.received")
        target.publish(bomb, Exchange("celeryev", type=kind), "worker.heartbeat")
    assert target.stands("behind the events")
    eventually(lambda: target.service.producer.control.ping(timeout=2), within=60)
    eventually(lambda: "behind the events" in asked(target.flower, "/api/tasks")[2], within=60)
    assert not target.file.exists()


def test_no_process_unpacks_gigabytes() -> None:
    """Neither a worker nor Flower nor doctor: whatever imports the application, which all of them do."""
    script = (
        "import sys, worker.app; from kombu.compression import decompress; decompress(sys.stdin.buffer.read(), 'gzip')"
    )
    bomb = zlib.compress(bytes(64 * 1024 * 1024))
    done = subprocess.run([sys.executable, "-c", script], input=bomb, capture_output=True, timeout=60, check=False)
    assert b"at most 16777216 bytes unpacked" in done.stderr


def test_pilitos_flag_is_read_without_running_it(tmp_path: Path) -> None:
    """A pickle in the one place where pickles are the host's own: only plain dicts are seen in it."""
    file = tmp_path / "went-off"
    for protocol in (0, 1, 2, 3, 4, 5):
        held = pickle.dumps({"ai_enabled": True, "x": pickle.loads(b"N.")}, protocol)
        bomb = pickled(file, protocol)
        for damaged in (bomb, held[:-1] + bomb, bomb[:-1] + held, held + bomb):
            flag.enabled(damaged)
            flag.changed(damaged, ai_enabled=False)
    assert not file.exists()
