"""doctor on RabbitMQ: its queues, what waits in them, and the policy that keeps redirects from being dropped."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from tests.acceptance.test_doctor import bad, findings
from tests.acceptance.typed import NOBODY, Typed
from tests.conftest import make_service
from tests.eventually import eventually
from tests.rabbitmq import RabbitMQ, installed
from tests.service import Service


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node with the management plugin."""
    if installed() is None:
        pytest.skip("rabbitmq-server is not installed")
    with RabbitMQ(tmp_path_factory.mktemp("managed"), plugins=["rabbitmq_management"]) as node:
        yield node


@pytest.fixture(params=["classic", "quorum"])
def typed(
    request: pytest.FixtureRequest, servers: dict[str, str], managed: RabbitMQ, tmp_path: Path
) -> Iterator[Typed]:
    """Types commands against a fresh virtual host of each default type."""
    service = make_service(servers, tmp_path, managed.vhost(default_queue_type=request.param))
    with Typed(service) as typed:
        yield typed


@pytest.mark.slow
def test_doctor_tells_what_rabbitmq_lacks(typed: Typed, managed: RabbitMQ) -> None:
    """First the queues, then the policy, with the command that sets it; after both, nothing is wrong."""
    api = {"REDIRECT_RABBITMQ_API": managed.management_url}
    done = typed("doctor", "--json", **api)
    assert bad(done) == {"queues"}
    assert "run `redirect-worker migrate`" in findings(done)["queues"]["says"]

    assert typed("migrate").returncode == 0
    lacking = typed("doctor", "--json", **api)
    assert bad(lacking) == {"redirects policy"}

    _, rabbitmqctl, command = findings(lacking)["redirects policy"]["says"].partition("rabbitmqctl ")
    assert rabbitmqctl
    managed.ctl(*shlex.split(command))
    # The API shows a policy once its queue has taken it up.
    eventually(lambda: typed("doctor", "--json", **api).returncode == 0, within=20, every=0.5)
    assert "not checked" in findings(typed("doctor", "--json"))["redirects policy"]["says"]


@pytest.mark.slow
def test_doctor_counts_what_waits_and_what_is_dead(typed: Typed) -> None:
    """Redirects that wait are told; a dead letter needs a person. Without the API the policy is not checked."""
    service = typed.service
    typed("migrate")
    for number in range(3):
        service.send({"event_id": str(number), "conversation_id": "c", "destination": "billing"})
    with Connection(service.broker_url, transport_options={"confirm_publish": True}) as connection:
        connection.Producer().publish({}, routing_key="workflow.redirects.dead")

    done = typed("doctor", "--json", REDIRECT_RABBITMQ_API=f"http://{NOBODY}")
    assert bad(done) == {"dead letters"}
    found = findings(done)
    assert found["waiting messages"]["says"] == "3 in redirects, 0 in workflow.redirects"
    assert "refused" in found["redirects policy"]["says"]
    assert "rabbitmqctl set_policy -p test" in found["redirects policy"]["says"]


@pytest.mark.slow
def test_what_expires_in_the_queue_is_a_dead_letter(typed: Typed, managed: RabbitMQ) -> None:
    """With the policy: RabbitMQ takes it out of the queue before any worker sees it, and would tell nobody."""
    service = typed.service
    typed("migrate")
    says = findings(typed("doctor", "--json", REDIRECT_RABBITMQ_API=managed.management_url))["redirects policy"]["says"]
    managed.ctl(*shlex.split(says.partition("rabbitmqctl ")[2]))
    event = {"event_id": "late", "conversation_id": "c", "destination": "billing"}
    eventually(lambda: _dead_after(service, event), within=20, every=0.5)


def _dead_after(service: Service, event: dict[str, Any]) -> bool:
    service.send(event, expires=0.01)
    with Connection(service.broker_url) as connection:
        channel: Any = connection.default_channel
        message = channel.basic_get("workflow.redirects.dead", no_ack=True)
    return message is not None and message.properties["application_headers"]["x-death"][0]["reason"] == "expired"
