"""Killed, told to stop or cut off while messages wait in the worker: none is lost, and none counts twice."""

import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.culprits import SLOW
from tests.eventually import eventually
from tests.integration.groups import ONE, all_applied, committed, connected, event, names, occupy
from tests.service import Service
from worker import embedded


def test_invariant_1_a_worker_killed_with_a_full_waiting_room(rabbit_service: Service) -> None:
    """SIGKILL of the group while sixty messages wait: the broker delivers every one again, and each is applied once."""
    service = rabbit_service
    with service.worker(*ONE) as worker:
        occupy(service, worker)
        for name in names(60):
            service.send(event(name))
        worker.kill()
    with service.worker(), service.beat():
        eventually(partial(all_applied, service, names(60)), within=30)
        eventually(service.agrees, within=30)


@pytest.mark.parametrize("broker", ["service", "rabbit_service"])
def test_invariant_1_a_worker_told_to_stop_with_a_full_waiting_room(
    broker: str, request: pytest.FixtureRequest
) -> None:
    """SIGTERM while sixty messages wait: what it does not do it gives back at once, on either broker."""
    service: Service = request.getfixturevalue(broker)
    with service.worker(*ONE) as worker:
        occupy(service, worker)
        for name in names(60):
            service.send(event(name))
        worker.popen.send_signal(signal.SIGTERM)
        worker.popen.wait(timeout=30)
    # Far less than the visibility timeout, after which a Redis broker would deliver them in any case.
    with service.worker(), service.beat():
        eventually(partial(all_applied, service, names(60)), within=30)
        eventually(service.agrees, within=30)


def test_invariant_1_a_redis_broker_goes_twice_under_a_full_waiting_room(service: Service, tmp_path: Path) -> None:
    """What waited is put back each time: by itself Redis would deliver it after the visibility timeout, two minutes."""
    home = tmp_path / "broker-home"
    service = replace(service, broker_url=embedded.start(home, ["broker"])["broker"])
    try:
        with service.worker(*ONE) as worker, service.beat():
            service.send(*[event(f"{SLOW} {number}") for number in range(16)])
            eventually(lambda: worker.says(f"met {SLOW} 0"))
            for name in names(60):
                service.send(event(name))
            for connections in (1, 2):
                eventually(partial(connected, worker, connections))
                eventually(lambda: service.broker.llen("redirects") == 0)  # all of it is in hand
                embedded.stop(home, ["broker"])
                embedded.start(home, ["broker"])
            eventually(partial(all_applied, service, names(60)), within=40)
            eventually(service.agrees, within=30)
            eventually(lambda: service.broker.hlen("unacked") == 0)
            assert worker.running
    finally:
        embedded.stop(home)


def test_invariant_1_the_connection_is_lost_under_a_full_waiting_room(rabbit_service: Service, rabbitmq: Any) -> None:
    """What waited is delivered again on the new connection: nothing is lost, and nothing old is run or acknowledged."""
    service = rabbit_service
    with service.worker(*ONE) as worker, service.beat():
        occupy(service, worker)
        for name in names(60):
            service.send(event(name))
        rabbitmq.ctl("close_all_connections", "test")
        eventually(partial(all_applied, service, names(60)), within=30)
        eventually(service.agrees, within=30)
        eventually(lambda: committed(worker)[-1] >= 1)
        assert worker.running
        service.send(event("after it"))
        eventually(partial(all_applied, service, ["after it"]))
    applied = service.rows("SELECT event_id FROM redirects WHERE outcome = 'applied'")
    assert len(applied) == len({row["event_id"] for row in applied}) == 64
