"""Real servers for every test: started once from the wheels, a fresh database from a template for each test."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import NullPool, create_engine, text

from tests.rabbitmq import RabbitMQ, installed
from tests.service import Service
from worker import embedded
from worker.db import migrations
from worker.db.session import psycopg2_url

_numbers = count(1)
# What `make test` leaves to `make slow`, but for what is marked `quick` there.
_SLOW = {Path(__file__).with_name(name) for name in ("browser", "chaos")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _SLOW.intersection(item.path.parents) and item.get_closest_marker("quick") is None:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """PostgreSQL, a broker and a cache of this run's own, on free ports; name -> URL."""
    home = tmp_path_factory.mktemp("servers") / "home"
    urls = embedded.start(home, durable=False)
    try:
        migrations.upgrade(urls["postgres"])
        yield urls
    finally:
        embedded.stop(home)


def fresh_database(admin_url: str) -> str:
    """The URL of a new copy of the migrated database."""
    name = f"test_{next(_numbers)}"
    limit = {"connect_timeout": 20}  # or a server that does not answer would be a test that says nothing for minutes
    url = psycopg2_url(admin_url)
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=limit)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE redirect STRATEGY file_copy"))
    return admin_url.rsplit("/", 1)[0] + f"/{name}"


def make_service(servers: dict[str, str], folder: Path, broker_url: str | None = None) -> Service:
    """A service with empty stores; with `broker_url` on another broker than the servers' own."""
    for name in ("broker", "cache"):
        with Redis.from_url(servers[name]) as client:
            client.flushall()
    return Service(fresh_database(servers["postgres"]), broker_url or servers["broker"], servers["cache"], folder)


@pytest.fixture
def service(servers: dict[str, str], tmp_path: Path) -> Service:
    """A service with empty stores and no process running."""
    return make_service(servers, tmp_path)


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A RabbitMQ node of this run's own. Tests take a virtual host each: `rabbitmq.vhost()`."""
    if installed() is None:
        pytest.skip("rabbitmq-server is not installed")
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture
def rabbit_service(servers: dict[str, str], rabbitmq: RabbitMQ, tmp_path: Path) -> Service:
    """As `service`, on a virtual host of its own on RabbitMQ. Nothing is declared there yet."""
    return make_service(servers, tmp_path, rabbitmq.vhost())


@pytest.fixture(scope="module")
def running(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker and one beat for all tests of a module that do them no harm; tests use ids of their own."""
    service = make_service(servers, tmp_path_factory.mktemp("running"))
    with service.worker(), service.beat():
        yield service


@pytest.fixture
def own_cache(service: Service, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose Redis can be stopped and started, and the home it runs in."""
    home = tmp_path / "home"
    yield replace(service, redis_url=embedded.start(home, ["cache"])["cache"]), home
    embedded.stop(home)
