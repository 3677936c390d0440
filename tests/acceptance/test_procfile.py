"""Each line of the Procfile runs by itself, in a shell, with nothing but the environment."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from redis import Redis
from sqlalchemy import NullPool, create_engine, text

from tests.acceptance import ups
from tests.conftest import make_service
from tests.eventually import eventually
from tests.service import Process, Service
from worker import stack
from worker.db import migrations
from worker.db.session import psycopg2_url
from worker.embedded.processes import free_port

WITHIN = 30.0


@pytest.fixture(scope="module")
def service(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Servers of somebody else, and a database in which nothing was ever made."""
    service = make_service(servers, tmp_path_factory.mktemp("procfile"))
    empty = service.database_url + "_empty"
    admin = create_engine(psycopg2_url(service.database_url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        name = empty.rpartition("/")[2]
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy"))
    service.database_url = empty
    assert release(service).returncode == 0
    return service


def environment(service: Service, **more: str) -> dict[str, str]:
    """Only what the contract names (section 3.9), and where the commands are."""
    urls = {"DATABASE_URL": service.database_url, "BROKER_URL": service.broker_url, "REDIS_URL": service.redis_url}
    return {"PATH": f"{ups.BIN}:{os.defpath}", "LANG": "C.UTF-8"} | urls | more


def release(service: Service) -> subprocess.CompletedProcess[str]:
    line = stack.procfile()["release"]
    return subprocess.run(
        ["sh", "-c", line],
        env=environment(service),
        cwd=stack.ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )


@contextmanager
def line(name: str, service: Service, **more: str) -> Iterator[Process]:
    """A line of the Procfile until the block ends; then SIGTERM for its main process, as a platform would do it."""
    log = service.folder / f"{name}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            ["sh", "-c", f"exec {stack.procfile()[name]}"],
            env=environment(service, **more),
            cwd=stack.ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process(popen, log)
    try:
        yield process
        assert process.running, log.read_text(errors="replace")
        family = [psutil.Process(popen.pid), *psutil.Process(popen.pid).children(recursive=True)]
        popen.terminate()
        popen.wait(timeout=WITHIN)
        assert ups.alive(family) == []
    finally:
        process.kill()


def test_release_makes_the_schema_and_declares_the_queues_and_may_run_again(service: Service) -> None:
    """In an empty database it ends with exit code 0 and says what it did; the second run changes nothing."""
    again = release(service)

    assert (again.returncode, again.stderr) == (0, "")
    assert f"schema: {migrations.head()} -> {migrations.head()}" in again.stdout
    assert "redirects, effects.websocket, effects.cache, effects.record, maintenance" in again.stdout
    assert service.rows("SELECT count(*) AS n FROM conversation_states") == [{"n": 0}]


def test_the_worker_alone_applies_a_redirect_and_writes_every_copy(service: Service) -> None:
    """No beat, no gateway, no Flower."""
    with line("worker", service):
        service.send({"event_id": "alone-1", "conversation_id": "alone", "destination": "sales"})
        eventually(lambda: service.state("alone"), within=WITHIN)
        eventually(service.agrees, within=WITHIN)


def test_beat_alone_sends_the_sweeps(service: Service) -> None:
    """They wait in the queue for a worker."""
    with Redis.from_url(service.broker_url, decode_responses=True) as broker:
        broker.delete("maintenance")
        with line("beat", service):
            eventually(lambda: broker.llen("maintenance"), within=WITHIN)
        sent = {json.loads(str(message))["headers"]["task"] for message in broker.lrange("maintenance", 0, -1)}
        broker.delete("maintenance")
    assert "retry_side_effects" in sent


def test_the_web_process_alone_answers(service: Service) -> None:
    """On PORT: its health, and what the database says."""
    port = free_port(None)
    with line("web", service, PORT=str(port)) as web:
        eventually(lambda: stack.listens(port) or not web.running, within=WITHIN)
        assert json.loads(ups.get(f"http://127.0.0.1:{port}/healthz")) == {"status": "ok"}
        assert {"value": "ai", "label": "AI Assistant"} in json.loads(ups.get(f"http://127.0.0.1:{port}/destinations"))


def test_flower_alone_answers(service: Service) -> None:
    """On REDIRECT_FLOWER_PORT, also while there is no worker."""
    port = free_port(None)
    with line("flower", service, REDIRECT_FLOWER_PORT=str(port)) as flower:
        eventually(lambda: stack.listens(port) or not flower.running, within=WITHIN)
        assert json.loads(ups.get(f"http://127.0.0.1:{port}/api/workers")) == {}
