"""Servers that say no, in each of their ways: what the processes and the commands tell of it holds no password."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.acceptance.sentry_sink import sink
from tests.acceptance.typed import Typed
from tests.eventually import eventually
from tests.integration.gateways import Gateway
from tests.security.planted import found, plant
from tests.security.surfaces import ME, templated
from tests.security.test_flower_door import FLOWER, asked
from tests.service import WORKER, Service
from worker import stack
from worker.embedded.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOBODY = "{{user}}@127.0.0.1:{}"
COMMANDS = (
    ("doctor",),
    ("status",),
    ("show", "c1"),
    ("send", "c1", "billing"),
    ("migrate",),
    ("verify",),
    ("effects", "list"),
)
# What each of the processes says once it has met its broker.
SAYS = r"Cannot connect to|Connection error|intake_lost|Unrecoverable error"


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing, as a frozen server does."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        yield listening.getsockname()[1]


def addresses(wrong: str, servers: dict[str, str], silent: int) -> tuple[str, str, str]:
    """Database, broker and cache that say no in this way."""
    there = tuple(templated(servers[name]) for name in ("postgres", "broker", "cache"))
    if wrong == "password":
        return there[0], there[1], there[2]
    if wrong == "tls":
        return (
            f"{there[0]}?sslmode=require",
            there[1].replace("redis:", "rediss:"),
            there[2].replace("redis:", "rediss:"),
        )
    at = NOBODY.format(silent if wrong == "silent" else 1)
    broker = f"amqp://{at}//" if wrong == "rabbitmq" else f"redis://{at}/0"
    return f"postgresql://{at}/d", broker, f"redis://{at}/0"


@pytest.mark.parametrize("wrong", ["password", "refused", "silent", "tls", "rabbitmq"])
def test_no_password_is_told(
    wrong: str, servers: dict[str, str], silent: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By no log, no answer, no output of a command, no command line, and not to Sentry."""
    folder = tmp_path_factory.mktemp(wrong)
    ports = {name: str(free_port(None)) for name in ("PORT", "REDIRECT_FLOWER_PORT")}
    with sink() as heard, ExitStack() as started:
        planted = plant(*addresses(wrong, servers, silent), heard.port)
        extra = dict(planted.variables) | ports | {"REDIRECT_LOG_FORMAT": "text" if wrong == "tls" else "json"}
        service = Service("", "", "", folder, extra)
        words = (("celery", "-A", "worker.app", *WORKER), ("celery", "-A", "worker.app", "beat"), ("worker.intake",))
        processes = [started.enter_context(service.running(*each)) for each in words]
        web = Gateway(
            int(ports["PORT"]), started.enter_context(service.running("worker.gateway", ready="gateway ready"))
        )
        flower = started.enter_context(service.running(*FLOWER))
        typed = started.enter_context(Typed(service, within=90))
        told = [typed(*each, **service.extra) for each in COMMANDS]
        for process in processes:
            eventually(lambda log=process.log: re.search(SAYS, log.read_text()), within=60)  # type: ignore[misc]
        seen = {" ".join(done.args): done.stdout + done.stderr for done in told}
        assert all(done.stdout + done.stderr for done in told) and any(done.returncode for done in told)
        seen["gateway"] = str([web.get(path) for path in ("/readyz", "/conversations", "/metrics", "/healthz")])
        if eventually(lambda: stack.listens(int(ports["REDIRECT_FLOWER_PORT"])) or not flower.running, within=30):
            seen["flower"] = _pages(int(ports["REDIRECT_FLOWER_PORT"])) if flower.running else ""
        seen["processes"] = _command_lines([each.popen.pid for each in [*processes, web.process, flower]])
    seen |= {path.name: path.read_text() for path in folder.glob("*.log")} | {"sentry": "\n".join(heard.envelopes)}
    assert {where: leaked for where, text in seen.items() if (leaked := found(text, planted.all()))} == {}


def _pages(port: int) -> str:
    try:
        return str([asked(port, path, **ME) for path in ("/", "/broker", "/tasks", "/api/workers?refresh=1")])
    except OSError as error:
        return repr(error)


def _command_lines(pids: list[int]) -> str:
    return "\n".join(" ".join(psutil.Process(pid).cmdline()) for pid in pids if psutil.pid_exists(pid))
