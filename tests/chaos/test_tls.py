"""TLS: a whole redirect over nothing else, on either broker."""

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.gateways import gateway
from tests.rabbitmq import RabbitMQ, installed
from tests.service import Service
from tests.tls import OURS, Authority, Door, only_tls, open_doors, trusting
from worker.client import RedirectClient
from worker.embedded.processes import free_port

EVENT: dict[str, Any] = {"destination": "billing", "owner_id": "7"}


@dataclass
class Secure:
    """A service whose three servers are reached over TLS, and how it is proved that they were."""

    service: Service
    doors: tuple[Door, ...]
    ca: Path
    node: RabbitMQ | None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def node(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitMQ, int, int]]:
    """A node that speaks TLS itself, and the ports where it does: for AMQP, and for its management API."""
    if installed() is None:
        pytest.skip("rabbitmq-server is not installed")
    certificate, key = authority.issue(*OURS)
    files = {"cacertfile": authority.ca, "certfile": certificate, "keyfile": key}
    port, management = free_port(None), free_port(None)
    lines = [f"listeners.ssl.1 = 127.0.0.1:{port}", "ssl_options.verify = verify_none"]
    lines += ["management.ssl.ip = 127.0.0.1", f"management.ssl.port = {management}"]
    lines += [f"{place}.{name} = {path}" for place in ("ssl_options", "management.ssl") for name, path in files.items()]
    settings = "\n".join(lines) + "\n"
    with RabbitMQ(tmp_path_factory.mktemp("node"), ["rabbitmq_management"], settings) as node:
        yield node, port, management


@pytest.fixture(params=["redis", "rabbitmq"])
def secure(
    request: pytest.FixtureRequest, servers: dict[str, str], authority: Authority, tmp_path: Path
) -> Iterator[Secure]:
    """The service on either broker. The wheels' PostgreSQL and Valkey have no TLS of their own: doors have it."""
    plain, certificate = make_service(servers, tmp_path), authority.issue(*OURS)
    doors = tuple(Door(url, certificate) for url in (plain.database_url, plain.redis_url, plain.broker_url))
    database, cache, broker = (trusting(door.url, authority.ca) for door in doors)
    extra, node = {}, None
    if request.param == "rabbitmq":
        node, port, management = request.getfixturevalue("node")
        extra = {"REDIRECT_RABBITMQ_API": f"https://guest:guest@127.0.0.1:{management}"}
        vhost = node.vhost().rpartition("/")[2]
        broker, doors = trusting(f"amqps://guest:guest@127.0.0.1:{port}/{vhost}", authority.ca), doors[:2]
    with open_doors(*doors):
        yield Secure(Service(database, broker, cache, tmp_path, extra), doors, authority.ca, node)


def test_a_whole_redirect_over_tls_only(secure: Secure) -> None:
    """By the client, a Celery producer and HTTP: the copies agree, the live channel and the numbers are there."""
    service = secure.service
    plain_celery(secure)
    with (
        service.worker() as worker,
        service.beat(),
        service.running("worker.intake", ready="intake ready"),
        gateway(service) as web,
        RedirectClient(service.broker_url, timeout=10) as client,
    ):
        eventually(lambda: web.get("/readyz").body["checks"]["live"] == "ok", within=30)
        with web.socket() as socket:
            client.redirect("by-client", **EVENT)
            service.send(EVENT | {"event_id": "e2", "conversation_id": "by-celery"})
            eventually(lambda: len(service.redirects()) == 2, within=60)
            eventually(service.agrees, within=60)
            frames = json.dumps([socket.recv(timeout=10) for _ in range(3)])
        assert "by-client" in frames or "by-celery" in frames
        numbers = str(web.get("/metrics").body)
        assert 'redirect_worker_queue_messages{queue="redirects"}' in numbers
        found = doctor(service)
        assert all(finding["ok"] for finding in found.values() if finding["name"] in {"database", "broker", "cache"})
        assert worker.running
        _nothing_was_in_clear(secure)
    if secure.node is not None:  # asked over its own TLS; only the dead letter exchange is missing there
        assert "not checked" not in found["redirects policy"]["says"]


def plain_celery(secure: Secure) -> None:
    """A producer with nothing of ours is told by Celery's own setting."""
    if secure.node is not None:
        url, options = (
            secure.service.broker_url.partition("?")[0],
            {"ca_certs": str(secure.ca), "server_hostname": None},
        )
        secure.service.producer.conf.update(broker_url=url, broker_use_ssl=options | {"cert_reqs": ssl.CERT_REQUIRED})


def doctor(service: Service) -> dict[str, Any]:
    """Its findings by name."""
    command = [sys.executable, "-c", "from worker.cli import main; main()", "doctor", "--json"]
    done = subprocess.run(command, env=service.environment, capture_output=True, text=True, timeout=60, check=False)
    return {finding["name"]: finding for finding in json.loads(done.stdout)}


def _nothing_was_in_clear(secure: Secure) -> None:
    assert all(door.opened for door in secure.doors)
    for door in secure.doors:
        assert all(map(only_tls, door.heard))
    if secure.node is not None:
        listed = secure.node.ctl("list_connections", "--silent", "ssl").split()
        assert len(listed) > 3 and set(listed) == {"true"}
