"""The whole service with a secret in every setting, and code of a host that quotes them: where do they come out?"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from redis import Redis
from sqlalchemy import NullPool, create_engine

from tests.acceptance.sentry_sink import sink
from tests.acceptance.typed import Typed
from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.gateways import Gateway
from tests.rabbitmq import RabbitMQ
from tests.security import telling_store
from tests.security.planted import found, plant, secret
from tests.security.surfaces import Running, look, templated
from tests.security.test_flower_door import FLOWER
from worker import stack
from worker.db.session import psycopg2_url
from worker.embedded.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@contextmanager
def accounts(servers: dict[str, str], broker: str) -> Iterator[None]:
    """The user `planted`, with its own password on each server."""
    database = create_engine(psycopg2_url(servers["postgres"]), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    password = secret("database_url").replace("'", "''").replace("%", "%%")
    with database.connect() as connection, ExitStack() as gone:
        connection.exec_driver_sql("DROP ROLE IF EXISTS planted")
        connection.exec_driver_sql(f"CREATE ROLE planted LOGIN SUPERUSER PASSWORD '{password}'")
        for name, server in {"broker_url": broker, "redis_url": servers["cache"]}.items():
            if server.startswith("redis"):
                admin = gone.enter_context(Redis.from_url(server))
                admin.execute_command(
                    "ACL", "SETUSER", "planted", "reset", "on", f">{secret(name)}", "~*", "&*", "+@all"
                )
        yield
        for server in {broker, servers["cache"]}:
            if server.startswith("redis"):
                gone.enter_context(Redis.from_url(server)).execute_command("ACL", "DELUSER", "planted")


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def running(
    request: pytest.FixtureRequest, servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Worker, beat, intake, gateway and Flower under their secrets. On RabbitMQ beside a node that is gone."""
    folder, broker = tmp_path_factory.mktemp("planted"), servers["broker"]
    if request.param == "rabbitmq":
        node: RabbitMQ = request.getfixturevalue("rabbitmq")
        broker = node.vhost()
        node.ctl("add_user", "planted", secret("broker_url"))
        node.ctl("set_permissions", "-p", urlsplit(broker).path.removeprefix("/"), "planted", ".*", ".*", ".*")
    service = make_service(servers, folder, broker)
    named = templated(broker)
    if request.param == "rabbitmq":
        named += f";amqp://{{user}}@127.0.0.1:{free_port(None)}//"
    with accounts(servers, broker), sink() as heard, ExitStack() as processes:
        planted = plant(templated(service.database_url), named, templated(servers["cache"]), heard.port)
        ports = {name: str(free_port(None)) for name in ("PORT", "REDIRECT_FLOWER_PORT")}
        extra = (
            dict(planted.variables)
            | ports
            | {"REDIRECT_RECORD_STORE": telling_store.NAME, "REDIRECT_SWEEP_INTERVAL": "1"}
        )
        under = replace(service, extra=extra)
        typed = processes.enter_context(Typed(under, within=60))
        done = typed("migrate", **extra, PATH="")
        assert done.returncode == 0, done.stderr
        started = [
            processes.enter_context(one)
            for one in (under.worker(), under.beat(), under.running("worker.intake", ready="reading the JSON queue"))
        ]
        started.append(processes.enter_context(under.running("worker.gateway", ready="gateway ready")))
        started.append(processes.enter_context(under.running(*FLOWER)))
        eventually(lambda: stack.listens(int(ports["REDIRECT_FLOWER_PORT"])), within=60)
        web = Gateway(int(ports["PORT"]), started[3])
        running = Running(service, planted, heard, web, int(ports["REDIRECT_FLOWER_PORT"]), started, {})
        running.seen["commands"] = typed("migrate", "--json", **extra).stdout
        _provoke(running)
        look(running, under, typed)
        yield running


def _provoke(running: Running) -> None:
    """Errors of the host's code, for now and for good; what is refused; wrong and right tokens, everywhere."""
    service, words = running.service, running.planted.words
    text = {"reason": words[0], "metadata": {"note": words[1]}, "destination": "billing", "owner_id": "7"}
    for name in ("fine-1", "telling-1", "dead-1"):
        service.send({"event_id": f"e-{name}", "conversation_id": name} | text)
    service.send({"event_id": "e-no", "conversation_id": "fine-1"} | text | {"destination": "nowhere"}, 5)
    service.producer.send_task("no_such_task", args=list(words), queue="redirects")
    eventually(lambda: len(service.rejected()) >= 3, within=60)
    eventually(lambda: {row["state"] for row in service.effects()} == {"waiting", "dead"}, within=60)
    eventually(lambda: running.heard.of("worker"), within=60)
    eventually(lambda: running.processes[0].says("e-fine-1") and running.processes[0].says("effect_retry"), within=60)


def test_no_secret_comes_out(running: Running) -> None:
    """Neither in a log, nor in Sentry, Flower, an answer, a command's output, a command line, a row or a copy."""
    assert {where: told for where, text in running.seen.items() if (told := found(text, running.planted.all()))} == {}


def test_what_was_looked_at_is_there(running: Running) -> None:
    """The errors of the host's code are told in all those places, without what they quoted."""
    for where in ("logs", "sentry", "flower", "tables", "show dead-1", "effects list"):
        assert "cannot reach" in running.seen[where], where
        assert "**" in running.seen[where], where
    assert len(running.seen["processes"].splitlines()) > 8
    assert "e-dead-1" in running.seen["flower"]


def test_no_word_of_a_customer_is_in_logs_sentry_or_flower(running: Running) -> None:
    """Neither of an event that was applied, nor of one that was refused or failed."""
    for where in ("logs", "sentry", "flower", "processes", "errors"):
        assert found(running.seen[where], iter(running.planted.words)) == [], where
