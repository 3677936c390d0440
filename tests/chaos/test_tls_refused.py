"""No word to a server that has not proved who it is: a certificate of a wrong name, or of another authority."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from redis.exceptions import RedisError
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError

from config.celery import tls
from tests.chaos.test_tls import doctor
from tests.eventually import eventually
from tests.service import Service
from tests.tls import ELSEWHERE, OURS, Authority, Door, only_tls, open_doors, trusting
from worker.client import BrokerUnavailable, RedirectClient
from worker.db.session import make_engine
from worker.gateway import live
from worker.intake.amqp import Amqp
from worker.intake.redis_list import RedisList

# Seconds in which a client must have said no, on a loaded machine.
REFUSED_WITHIN = 10.0
PASSWORD = "open-sesame"
# Nobody answers behind these doors: nobody comes that far.
SERVERS = {
    "database": f"postgresql://redirect:{PASSWORD}@127.0.0.1:1/redirect",
    "redis": f"redis://:{PASSWORD}@127.0.0.1:1/0",
    "rabbitmq": f"amqp://redirect:{PASSWORD}@127.0.0.1:1/redirects",
}
NO = (DBAPIError, RedisError, BrokerUnavailable, OSError)


def _engine(url: str) -> None:
    make_engine(url, poolclass=NullPool).connect()


def _live(url: str) -> None:
    async def ask() -> None:
        async with live.client(url) as redis:
            await redis.info()

    asyncio.run(ask())


def _client(url: str) -> None:
    with RedirectClient(url, timeout=5) as client:
        client.redirect("c", "billing")


def _celery(url: str) -> None:
    """As worker/app.py has it: the guarded transports, and `broker_use_ssl`."""
    module = "amqp_transport:SSLTransport" if url.startswith("amqps") else "redis_transport:Transport"
    options: dict[str, Any] = {"connect_timeout": 2, "transport_options": {"max_retries": 1, "socket_timeout": 2}}
    secure = tls(url).get("broker_use_ssl", False)
    with Connection(url, ssl=secure, transport=f"worker.guard.{module}", **options) as connection:
        connection.connect()
        connection.channel()


CLIENTS: dict[str, tuple[str, Callable[[str], object]]] = {
    "engine": ("database", _engine),
    "live channel": ("redis", _live),
    "intake, Redis": ("redis", lambda url: RedisList(url).open()),
    "client, Redis": ("redis", _client),
    "Celery, Redis": ("redis", _celery),
    "intake, RabbitMQ": ("rabbitmq", lambda url: Amqp(url).open()),
    "client, RabbitMQ": ("rabbitmq", _client),
    "Celery, RabbitMQ": ("rabbitmq", _celery),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def impostors(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Door]]]:
    """What is wrong -> the doors in front of SERVERS where it is."""
    theirs = Authority(tmp_path_factory.mktemp("tls") / "theirs")
    certificates = {"name": ours.issue(*ELSEWHERE), "authority": theirs.issue(*OURS), "unsaid": ours.issue(*OURS)}
    doors = {
        wrong: {name: Door(url, certificate) for name, url in SERVERS.items()}
        for wrong, certificate in certificates.items()
    }
    with open_doors(*(door for each in doors.values() for door in each.values())):
        yield doors


def _nothing_was_said(door: Door) -> None:
    eventually(lambda: door.inside == 0, within=10)
    assert door.heard and door.opened == 0
    assert all(map(only_tls, door.heard))
    assert not any(PASSWORD.encode() in heard for heard in door.heard)


@pytest.mark.parametrize("wrong", ["name", "authority"])
@pytest.mark.parametrize("who", CLIENTS)
def test_a_client_refuses_an_impostor(
    who: str, wrong: str, impostors: dict[str, dict[str, Door]], ours: Authority
) -> None:
    """Within seconds, saying that it is the certificate; the password and all the rest stay here."""
    server, call = CLIENTS[who]
    door = impostors[wrong][server]
    started = time.monotonic()
    with pytest.raises(NO, match=r"(?i)certificate"):
        call(trusting(door.url, ours.ca))
    assert time.monotonic() - started < REFUSED_WITHIN
    _nothing_was_said(door)


@pytest.mark.parametrize("who", [who for who, (server, _) in CLIENTS.items() if server != "database"])
@pytest.mark.parametrize("wrong", ["name", "unsaid"])
def test_amqps_and_rediss_alone_are_verified(
    who: str, wrong: str, impostors: dict[str, dict[str, Door]], ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL that names no authority means those of the system, and its name; never anybody (kombu's own default)."""
    if wrong == "name":
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))  # now the system trusts it
    server, call = CLIENTS[who]
    door = impostors[wrong][server]
    with pytest.raises(NO, match=r"(?i)certificate"):
        call(door.url)
    _nothing_was_said(door)


@pytest.mark.parametrize("wrong", ["name", "authority"])
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_doctor_names_the_impostors(
    broker: str, wrong: str, impostors: dict[str, dict[str, Door]], ours: Authority, tmp_path: Path
) -> None:
    """Database, broker and cache are BAD, each because of its certificate."""
    doors = impostors[wrong]
    database, cache, broker_url = (trusting(doors[name].url, ours.ca) for name in ("database", "redis", broker))
    found = doctor(Service(database, broker_url, cache, tmp_path))
    for name in ("database", "broker", "cache"):
        assert not found[name]["ok"]
        assert "certificate" in found[name]["says"].lower(), found[name]
    for name in ("database", "redis", broker):
        _nothing_was_said(doors[name])
