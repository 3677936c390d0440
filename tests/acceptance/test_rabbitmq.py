"""The service on RabbitMQ, a real node: who gets in, and what does not harm it."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from kombu import Connection

from tests.conftest import make_service
from tests.eventually import eventually
from tests.poison import Case, identity
from tests.poison_amqp import publish
from tests.poison_cases import cases
from tests.rabbitmq import RabbitMQ
from tests.service import Service

QUEUES = {"redirects", "effects.cache", "effects.websocket", "effects.record", "maintenance"}
JSON_QUEUES = {"workflow.redirects", "workflow.redirects.dead"}


def event(number: int, **fields: object) -> dict[str, object]:
    names = {"event_id": f"event-{number}", "conversation_id": f"conversation-{number}"}
    return {**names, "destination": "billing", "owner_id": "7", **fields}


def migrate(service: Service) -> str:
    """`redirect-worker migrate`, which a release runs before anything else starts."""
    command = [sys.executable, "-c", "from worker.cli import main; main()", "migrate"]
    done = subprocess.run(command, env=service.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def types(rabbitmq: RabbitMQ, service: Service) -> dict[str, str]:
    """The queues of the service's virtual host, and the type of each."""
    listed = rabbitmq.ctl("list_queues", "-p", service.broker_url.rpartition("/")[2], "--silent", "name", "type")
    return dict(line.split("\t") for line in listed.splitlines())


def all_copies_follow(service: Service, *numbers: int) -> None:
    """State, cache and record show each event, and only one version of it."""
    eventually(lambda: len(service.redirects()) == len(numbers), within=30)
    eventually(service.agrees, within=30)
    for number in numbers:
        state = service.state(f"conversation-{number}")
        assert state is not None and (state["version"], state["status"]) == (1, "support_active")


def test_a_default_celery_producer_gets_in_before_and_after_migrate(
    rabbit_service: Service, rabbitmq: RabbitMQ
) -> None:
    """Whoever declares `redirects` first, neither side is refused (406), and no event is lost in between."""
    rabbit_service.send(event(1))
    assert set(types(rabbitmq, rabbit_service)) == {"redirects"}
    told = migrate(rabbit_service)
    assert all(name in told for name in QUEUES | JSON_QUEUES)
    rabbit_service.send(event(2))

    with rabbit_service.worker(), rabbit_service.beat():
        rabbit_service.send(event(3))
        all_copies_follow(rabbit_service, 1, 2, 3)

    found = types(rabbitmq, rabbit_service)
    assert {found[name] for name in QUEUES} == {"classic"}
    assert {found[name] for name in JSON_QUEUES} == {"quorum"}


@pytest.fixture
def quorum_by_default(servers: dict[str, str], rabbitmq: RabbitMQ, tmp_path: Path) -> Service:
    """On a virtual host where a queue without a type is a quorum queue, as production should be."""
    return make_service(servers, tmp_path, rabbitmq.vhost(default_queue_type="quorum"))


@pytest.fixture
def quorum_by_setting(rabbit_service: Service) -> Service:
    """On a virtual host without a default, where both sides name the type of `redirects`."""
    rabbit_service.extra["REDIRECT_QUEUE_TYPE"] = "quorum"
    rabbit_service.producer.conf.task_create_missing_queue_type = "quorum"
    return rabbit_service


@pytest.mark.slow
def test_a_virtual_host_of_quorum_queues(quorum_by_default: Service, rabbitmq: RabbitMQ) -> None:
    """The same default producer, the same worker: the queues are quorum queues, and the worker is not thrown out."""
    _before_and_after(quorum_by_default)
    assert set(types(rabbitmq, quorum_by_default).values()) == {"quorum"}


@pytest.mark.slow
def test_a_quorum_queue_by_setting(quorum_by_setting: Service, rabbitmq: RabbitMQ) -> None:
    """REDIRECT_QUEUE_TYPE here and `task_create_missing_queue_type` at the producer: `redirects` is a quorum queue."""
    _before_and_after(quorum_by_setting)
    found = types(rabbitmq, quorum_by_setting)
    assert {name: found[name] for name in QUEUES} == dict.fromkeys(QUEUES, "classic") | {"redirects": "quorum"}
    assert set(found) == QUEUES | JSON_QUEUES


def _before_and_after(service: Service) -> None:
    service.send(event(1))
    migrate(service)
    with service.worker() as worker, service.beat():
        service.send(event(2))
        all_copies_follow(service, 1, 2)
        assert not worker.says("Connection to broker lost")
        assert not worker.says("NOT_IMPLEMENTED")


@pytest.mark.slow
def test_a_delayed_redirect_holds_a_place_in_its_worker(rabbit_service: Service) -> None:
    """The limit of `eta` and `countdown` here: as many as the prefetch (100 for each process) keep a worker busy."""
    service = rabbit_service
    with service.worker(REDIRECT_CONCURRENCY="1"):
        for number in range(99):
            service.send(event(number), countdown=8)
        service.send(event(99))
        eventually(lambda: service.state("conversation-99"))
        assert len(service.redirects()) == 1

        service.send(event(100), countdown=8)
        service.send(event(101))
        eventually(lambda: len(service.redirects()) == 102, within=30)
    at = {row["event_id"]: row["received_at"] for row in service.redirects()}
    assert at["event-101"] >= min(at[f"event-{number}"] for number in range(99))


def test_invariant_6_poison_is_parked_whole(rabbit_service: Service) -> None:
    """All that AMQP can carry of the poison set, in one go: each is kept with its reason or its event is applied.

    The same processes, on the same connection, do what comes behind it.
    """
    service = rabbit_service
    with service.worker() as worker:
        eventually(lambda: len(psutil.Process(worker.popen.pid).children()) == 4)
        children = set(psutil.Process(worker.popen.pid).children())
        with Connection(service.broker_url, transport_options={"confirm_publish": True}) as connection:
            sent = [case for case in cases() if publish(connection, case)]
        service.send(event(1))
        eventually(lambda: service.cached("conversation-1"), within=60)
        assert set(psutil.Process(worker.popen.pid).children()) == children
        assert not worker.says("Connection to broker lost")

    assert len(sent) > 120
    _all_kept_or_applied(service, sent)


def _all_kept_or_applied(service: Service, sent: list[Case]) -> None:
    rows = service.rejected()
    wanted = Counter(kept for case in sent if case.says for kept in case.kept)
    assert Counter(identity(row["body"]) for row in rows) == wanted
    reasons = {identity(row["body"]): f"{row['code']}, {row['source']}: {row['error']}" for row in rows}
    told = {case.name: reasons[kept] for case in sent if case.says for kept in case.kept}
    assert {case.name: told[case.name] for case in sent if case.says and case.says not in told[case.name]} == {}
    assert all(told[case.name].startswith(f"{case.code}, {case.queue}:") for case in sent if case.says)
    done = {row["event_id"] for row in service.redirects()}
    assert {case.name for case in sent if case.says is None} == done - {"event-1"}
