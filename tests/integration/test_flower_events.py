"""The events for Flower, when the broker is away."""

import threading
from urllib.parse import urlsplit

import pytest
from celery import Celery

from tests.chaos.harness.proxy import Proxy
from tests.chaos.harness.servers import through
from tests.service import Service


@pytest.mark.parametrize("broker", ["service", "rabbit_service"])
def test_a_heartbeat_does_not_wait_for_the_broker(broker: str, request: pytest.FixtureRequest) -> None:
    """It asks for a retry, and would be tried until the broker is back, with the worker standing still meanwhile."""
    service: Service = request.getfixturevalue(broker)
    port = urlsplit(service.broker_url).port
    assert port is not None
    with Proxy(port) as proxy:
        app = Celery(broker=through(service.broker_url, proxy), events="worker.guard.events:Events")
        with app.connection_for_write() as connection:
            dispatcher = app.events.Dispatcher(connection, hostname="here", enabled=True)
            dispatcher.send("worker-heartbeat", retry=True)
            proxy.refuse()
            beat = threading.Thread(target=dispatcher.send, args=("worker-heartbeat",), kwargs={"retry": True})
            beat.daemon = True
            beat.start()
            beat.join(20)
            assert not beat.is_alive()
            assert len(dispatcher._outbound_buffer) == 1
