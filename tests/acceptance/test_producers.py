"""The producers of examples/producers, run as their readers would: each redirects a conversation on a real broker."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import make_service
from tests.eventually import eventually
from tests.rabbitmq import RabbitMQ
from tests.service import Service
from worker.embedded.processes import free_port

EXAMPLES = Path(__file__).parents[2] / "examples" / "producers"
PYTHON = ("celery_send_task.py", "kombu_publish.py", "python_client.py")


@pytest.fixture(scope="module")
def on_rabbitmq(
    servers: dict[str, str], rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A worker and an intake on RabbitMQ, for all examples; each has a conversation of its own."""
    service = make_service(servers, tmp_path_factory.mktemp("on_rabbitmq"), rabbitmq.vhost())
    with service.worker(), service.running("worker.intake", ready="reading the JSON queue"):
        yield service


@pytest.fixture(scope="module")
def on_redis(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The same on Redis."""
    service = make_service(servers, tmp_path_factory.mktemp("on_redis"))
    with service.worker(), service.running("worker.intake", ready="reading the JSON queue"):
        yield service


def run(*command: str, **environment: str) -> None:
    """The example ends by itself with 0, and has nothing to complain about."""
    only = {name: os.environ[name] for name in ("HOME", "PATH", "LANG") if name in os.environ}
    done = subprocess.run(command, env=only | environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def redirected(service: Service, conversation_id: str) -> bool:
    state = service.state(conversation_id)
    return state is not None and state["destination"] == "billing"


@pytest.mark.parametrize("example", PYTHON)
def test_python_on_rabbitmq(on_rabbitmq: Service, example: str) -> None:
    """The conversation is redirected."""
    run(sys.executable, str(EXAMPLES / example), example, "billing", BROKER_URL=on_rabbitmq.broker_url)
    eventually(lambda: redirected(on_rabbitmq, example))


@pytest.mark.parametrize("example", PYTHON)
def test_python_on_redis(on_redis: Service, example: str) -> None:
    """The same file with another BROKER_URL."""
    run(sys.executable, str(EXAMPLES / example), example, "billing", BROKER_URL=on_redis.broker_url)
    eventually(lambda: redirected(on_redis, example))


@pytest.fixture(scope="module")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the Node example with what it depends on installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    copy = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES / "node", copy, ignore=shutil.ignore_patterns("node_modules"))
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--no-update-notifier", "--cache", str(copy / "cache"))
    subprocess.run(["npm", "install", *quiet, "--prefix", str(copy)], check=True, capture_output=True, timeout=120)
    return copy


def test_node_on_rabbitmq(on_rabbitmq: Service, node_example: Path) -> None:
    """A program in another language, which knows the exchange and the routing key."""
    run("node", str(node_example / "publish.js"), "from-node", "billing", BROKER_URL=on_rabbitmq.broker_url)
    eventually(lambda: redirected(on_rabbitmq, "from-node"))


@pytest.mark.parametrize("token", ["", "a-token-of-thirty-two-characters"])
def test_curl(on_rabbitmq: Service, token: str) -> None:
    """Over HTTP and the outbox, with a token where one is asked for."""
    port = str(free_port(None))
    asked = {"REDIRECT_HTTP_TOKENS": token} if token else {}
    name = f"from-curl-{len(token)}"
    with on_rabbitmq.running("worker.gateway", ready="gateway ready", PORT=port, **asked):
        script = str(EXAMPLES / "curl.sh")
        run("sh", script, name, "billing", GATEWAY_URL=f"http://127.0.0.1:{port}", TOKEN=token)
        eventually(lambda: redirected(on_rabbitmq, name))


def test_nobody_listens(rabbitmq: RabbitMQ, node_example: Path) -> None:
    """Before `migrate` no queue would take a JSON message: the senders fail instead of losing it."""
    url = rabbitmq.vhost()
    for command in (["node", str(node_example / "publish.js")], [sys.executable, str(EXAMPLES / "kombu_publish.py")]):
        with pytest.raises(AssertionError, match="workflow"):
            run(*command, "nobody", "billing", BROKER_URL=url)
