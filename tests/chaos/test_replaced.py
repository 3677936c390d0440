"""A process of the pool that replaces another is born of a worker in operation, and keeps nothing of it."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.chaos.harness.proxy import Proxy
from tests.eventually import eventually
from tests.integration.groups import all_applied, connected, event, names
from tests.service import Process, Service


def opened(pid: int) -> list[str]:
    """What each descriptor of a process is open on, such as `socket:[4711]`."""
    return [str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()]


def processes(worker: Process) -> set[int]:
    return {child.pid for child in psutil.Process(worker.popen.pid).children()}


@pytest.mark.parametrize("broker", ["service", "rabbit_service"])
def test_a_replaced_process_inherits_no_more_than_the_first(broker: str, request: pytest.FixtureRequest) -> None:
    """Nor a pipe of another's, nor a socket of its parent's, which had lost its broker before, and is heard after."""
    service: Service = request.getfixturevalue(broker)
    port = urlsplit(service.broker_url).port or 0
    with Proxy(port) as proxy:
        service = replace(service, broker_url=service.broker_url.replace(f":{port}", f":{proxy.port}"))
        with service.worker("--include", "tests.killers", REDIRECT_CONCURRENCY="3") as worker:
            first = processes(worker)
            eventually(lambda: all(worker.says(f"up {pid}\n") for pid in first))
            most = max(len(opened(pid)) for pid in first)
            proxy.reset()
            eventually(lambda: connected(worker, 2))
            killed = min(first)
            os.kill(killed, signal.SIGKILL)
            eventually(lambda: len(processes(worker) - {killed}) == len(first))
            (replaced,) = processes(worker) - first
            eventually(lambda: worker.says(f"up {replaced}\n"))

            files = opened(replaced)
            parents = {name for name in opened(worker.popen.pid) if name.startswith("socket:")}
            others = {name for pid in first - {killed} for name in opened(pid) if name.startswith("pipe:")}
            assert len(files) <= most
            assert parents.isdisjoint(files)
            assert others.isdisjoint(files)

            service.send(*map(event, names(30)))
            eventually(lambda: all_applied(service, names(30)))
            assert processes(worker) == first - {killed} | {replaced}
