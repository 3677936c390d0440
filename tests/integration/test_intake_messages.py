"""What a message may hold, what becomes of it, and how it is cut. On both brokers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.intakes import JSON, event, intake, outside, passed_on, put, waiting
from tests.poison import deepened
from tests.service import Service
from worker import embedded

CLOUD = "application/cloudevents+json"
BROKERS = ["redis", "rabbitmq"]


@pytest.fixture(params=BROKERS)
def either(request: pytest.FixtureRequest) -> Service:
    """A service on either broker, with no process running."""
    found: Service = request.getfixturevalue("service" if request.param == "redis" else "rabbit_service")
    return found


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that no other test empties."""
    home = tmp_path_factory.mktemp("broker") / "home"
    try:
        yield embedded.start(home, ["broker"])["broker"]
    finally:
        embedded.stop(home)


@pytest.fixture(scope="module", params=BROKERS)
def running(
    request: pytest.FixtureRequest, servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """An intake and a worker on either broker, for all tests that do them no harm."""
    is_redis = request.param == "redis"
    broker = request.getfixturevalue("own_redis") if is_redis else request.getfixturevalue("rabbitmq").vhost()
    service = make_service(servers, tmp_path_factory.mktemp("intake"), broker)
    with intake(service) as process, service.worker("--concurrency", "1"):
        yield service
        assert process.running, process.log.read_text(errors="replace")


def cloud(name: str, **fields: object) -> dict[str, Any]:
    attributes = {"specversion": "1.0", "type": "workflow.redirect", "id": name, "subject": name, "source": "flow/7"}
    return attributes | {"time": "2026-01-02T03:04:05.5Z", "data": {"destination": "billing"}} | fields


def events_in(service: Service, *names: str) -> list[dict[str, Any]]:
    return service.rows("SELECT * FROM redirects WHERE event_id = ANY(:ids) ORDER BY event_id", ids=list(names))


def test_an_event_an_array_and_cloudevents_are_applied(running: Service) -> None:
    """One event, an array, and CloudEvents structured and in a batch: each is applied, the attributes in place."""
    with outside(running) as producer:
        producer.put(event("one"))
        producer.put([event("first"), event("second")])
        producer.put(cloud("structured"), content_type=CLOUD)
        producer.put([cloud("batch-1"), cloud("batch-2")], content_type="application/cloudevents-batch+json")
    names = ["one", "first", "second", "structured", "batch-1", "batch-2"]
    eventually(lambda: {row["outcome"] for row in events_in(running, *names)} == {"applied"}, within=20)
    eventually(lambda: len(events_in(running, *names)) == len(names), within=20)
    row = events_in(running, "structured")[0]
    assert (row["source"], row["occurred_at"]) == ("flow/7", datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC))


def test_a_cloudevent_in_binary_mode_is_applied(running: Service) -> None:
    """CloudEvents' binary mode: the attributes are headers (the time one of AMQP's own type), the body is the data."""
    told: Any = "2026-01-02T03:04:05Z"
    if running.broker_url.startswith("amqp"):
        told = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)  # kombu on Redis has no such type
    attributes = {name: value for name, value in cloud("binary", time=told).items() if name != "data"}
    with outside(running) as producer:
        headers = {f"cloudEvents:{name}": value for name, value in attributes.items()}
        producer.put({"destination": "sales", "reason": "فارسی"}, JSON, headers)
    row = eventually(lambda: events_in(running, "binary"), within=20)[0]
    assert (row["destination"], row["reason"], row["source"]) == ("sales", "فارسی", "flow/7")
    assert row["occurred_at"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def poison() -> dict[str, object]:
    """Bodies that are no healthy event; those that kombu's or Python's decoder would choke on first."""
    inside = '{"event_id": "p", "conversation_id": "p", "destination": "billing", "metadata": {"x": %s}}'
    return {
        "typed by kombu": '{"__type__": "x", "__value__": 1}',
        "typed within": inside % '{"__type__": "datetime", "__value__": 1}',
        "deep": deepened(b'{"event_id": "DEEP 900"}'),
        "deeper": deepened(b'["DEEP 100000"]'),
        "NUL": inside % '"\\u0000"',
        "surrogate": inside % '"\\ud800"',
        "infinite": inside % "1e999",
        "endless digits": inside % ("9" * 5000),
        "not UTF-8": b"\xff\xfe\x00\xd8",
        "empty": b"",
        "scalar": b"5",
        "data that is no JSON": cloud("p", data="{bad"),
        "10 MB": b'{"event_id": "' + b"x" * 10_000_000 + b'"}',
        "10 MB of events": "[" + ",".join(["1"] * 100) + "," + '"' + "x" * 10_000_000 + '"]',
    }


def test_invariant_6_poison_harms_no_neighbour(running: Service) -> None:
    """Whatever stands between them, healthy messages of the same batch are all applied, and every poison is kept."""
    before = len(running.rejected())
    bodies = poison()
    with outside(running) as producer:
        for number, body in enumerate(bodies.values()):
            producer.put(event(f"neighbour-{number}"))
            producer.put(body)
    names = [f"neighbour-{number}" for number in range(len(bodies))]
    eventually(lambda: len(events_in(running, *names)) == len(names), within=30)
    # The array of 10 MB has 101 parts; the hundred numbers in it are the same, and are kept once.
    eventually(lambda: len(running.rejected()) >= before + len(bodies), within=30)
    assert all(row["error"] for row in running.rejected())
    eventually(lambda: waiting(running) == 0)


def test_what_is_refused_is_kept_with_its_headers(running: Service) -> None:
    """A CloudEvent in binary mode that cannot be read is kept whole: its identity is in its headers."""
    with outside(running) as producer:
        producer.put(b"no json", JSON, {"cloudEvents:specversion": "1.0", "cloudEvents:id": "lost-and-found"})
    kept = "SELECT * FROM rejected_events WHERE body LIKE '%lost-and-found%'"
    assert eventually(lambda: running.rows(kept), within=20)[0]["code"] == "malformed"


def test_a_single_message_goes_at_once(either: Service) -> None:
    """A message at a quiet time is passed on though no other ever follows it."""
    with intake(either):
        put(either, event("alone"))
        assert [[one["event_id"] for one in task] for task in passed_on(either, 1)] == [["alone"]]


def test_what_has_arrived_goes_together_and_arrays_are_cut(either: Service) -> None:
    """Waiting messages share tasks of at most REDIRECT_BATCH events; a larger array becomes several; all in order."""
    with intake(either, REDIRECT_BATCH="50"):
        pass  # the queue exists now
    events = [event(f"{number:04}") for number in range(230)]
    put(either, *events[:100], events[100:])
    with intake(either, REDIRECT_BATCH="50"):
        found = passed_on(either, 230)
    assert max(map(len, found)) == 50
    assert len(found) < 30
    assert [one for task in found for one in task] == events


def test_large_texts_do_not_exceed_what_a_worker_takes(running: Service) -> None:
    """120 events of 60 KB that are not ASCII: JSON in JSON makes 180 of them, so they are cut, and all applied."""
    large = [event(f"large-{number}", reason="ü" * 30_000) for number in range(120)]
    put(running, json.dumps(large, ensure_ascii=False))
    names = [one["event_id"] for one in large]
    eventually(lambda: len(events_in(running, *names)) == 120, within=60)


def test_memory_stays(service: Service) -> None:
    """20,000 messages pass, each alone; the intake is no larger afterwards than after the first 4,000."""
    with intake(service) as process:
        sizes = []
        for start in range(0, 20_000, 4_000):
            pipeline = service.broker.pipeline(transaction=False)
            for number in range(start, start + 4_000):
                pipeline.lpush("workflow.redirects", json.dumps(event(str(number), reason="x" * 1000)))
            pipeline.execute()
            eventually(lambda: service.broker.llen("workflow.redirects") == 0, within=30)
            sizes.append(psutil.Process(process.popen.pid).memory_info().rss)
    assert sizes[-1] < sizes[0] + 20_000_000, sizes


def test_importing_opens_nothing() -> None:
    """`import worker.intake` and its parts need no environment, and open no connection."""
    code = (
        "import socket, sys; socket.socket.connect = sys.exit; "
        "from worker.intake import __main__, amqp, forward, outbox, queue, redis_list; "
        "import threading; assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], env={"PATH": ""}, check=True, timeout=60)
