"""`/metrics`: the numbers of the whole service, as Prometheus reads them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import make_service
from tests.integration.gateways import Gateway, gateway
from tests.integration.ledgers import event, execute, file_effect, ledger_of
from tests.integration.test_gateway_outages import away
from tests.integration.tokens import SCRAPER, asking, bearer, token
from tests.service import Service
from worker.db import counters, side_effects
from worker.db.counters import Count
from worker.guard.taking import TAKEN

DECIDED = """
    INSERT INTO redirects
        (event_id, conversation_id, destination, outcome, version, status, occurred_at, received_at)
    SELECT 'e' || n, 'c' || n, 'billing', 'applied', 1, 'support_active', now(), now() - interval '5 minutes'
    FROM generate_series({first}, {last}) n
"""
OPS = Path(__file__).parents[2] / "ops"
Labels = dict[str, str]


@pytest.fixture(scope="module")
def service(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """With a little of everything that is counted."""
    service = make_service(servers, tmp_path_factory.mktemp("metrics"))
    ledger_of(service).accept([event("e1"), event("e2"), event("e3", "sales", "c2"), event("e4", "nowhere")])
    with side_effects.desk(service.engine) as connection:
        side_effects.settle(connection, [row["id"] for row in service.effects()], [])
    file_effect(service, "c1", "c2", kind="cache")
    file_effect(service, "c1", kind="record", state="dead", last_error="no", failures=9)
    execute(service, "UPDATE side_effects SET created_at = now() - interval '5 minutes'")
    counters.tell(service.engine, Count("sweeps"), Count("reconciliations"), Count("compared", (), 7))
    counters.tell(service.engine, Count("drift_found", ("cache",), 2), Count("drift_repaired", ("cache",), 2))
    counters.tell(service.engine, Count("publish_failures", ("ring",)))
    execute(service, "INSERT INTO event_outbox (body) VALUES ('{}'), ('{}')")
    service.broker.rpush("redirects", "waits")
    service.broker.rpush(TAKEN, "is being taken")
    return service


@pytest.fixture(scope="module")
def web(service: Service) -> Iterator[Gateway]:
    with gateway(service) as web:
        yield web


def scraped(web: Gateway, **headers: str) -> dict[str, list[tuple[Labels, float]]]:
    """Sample name -> its labels and values."""
    answer = web.get("/metrics", **headers)
    assert answer.status == 200, answer.body
    found: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(answer.body):
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix("redirect_worker_"), []).append((sample.labels, sample.value))
    return found


def value(found: dict[str, list[tuple[Labels, float]]], name: str, **labels: str) -> float:
    (only,) = [number for having, number in found[name] if having == labels]
    return only


def test_every_number_is_the_fact(web: Gateway) -> None:
    """What was decided, refused, written, filed, found and sent, as it stands in the tables and the broker."""
    found = scraped(web)
    assert value(found, "redirects_total", destination="billing", outcome="applied") == 1
    assert value(found, "redirects_total", destination="billing", outcome="noop") == 1
    assert value(found, "redirects_total", destination="sales", outcome="applied") == 1
    assert value(found, "rejected_events_total", code="unknown_destination") == 1
    for kind in ("cache", "websocket", "record"):
        assert value(found, "copy_seconds_count", kind=kind) == 2
        assert value(found, "copy_seconds_bucket", kind=kind, le="+Inf") == 2
        assert value(found, "copy_seconds_bucket", kind=kind, le="60.0") == 2
        assert 0 < value(found, "copy_seconds_sum", kind=kind) < 60
    assert value(found, "copies_behind", kind="cache", state="waiting") == 2
    assert value(found, "side_effects", kind="cache", state="waiting") == 1
    assert value(found, "copies_behind", kind="record", state="dead") == 1
    assert value(found, "copies_behind", kind="websocket", state="waiting") == 0
    assert 300 <= value(found, "oldest_behind_seconds", kind="cache", state="waiting") < 400
    assert value(found, "oldest_due_seconds", kind="cache", state="waiting") >= 1
    assert value(found, "outbox_events") == 2
    assert value(found, "queue_messages", queue="redirects") == 1
    assert value(found, "queue_messages", queue="workflow.redirects") == 0
    assert value(found, "queue_messages", queue="unacked") == 1
    assert value(found, "sweeps_total") == value(found, "reconciliations_total") == 1
    assert value(found, "reconciled_conversations_total") == 7
    assert value(found, "drift_found_total", kind="cache") == value(found, "drift_repaired_total", kind="cache") == 2
    assert value(found, "publish_failures_total", message="ring") == 1
    assert value(found, "last_sweep_timestamp_seconds") > 1.7e9
    assert value(found, "up", part="database") == value(found, "up", part="broker") == 1
    with web.socket():
        assert value(scraped(web), "sockets") == 1


def test_both_formats_of_prometheus_are_spoken(web: Gateway) -> None:
    """Text where nothing is said, OpenMetrics where it is asked for."""
    asked = web.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.body.endswith("# EOF\n")
    assert web.get("/metrics").headers["content-type"].startswith("text/plain")


def test_rules_and_dashboard_ask_for_what_is_told(web: Gateway) -> None:
    """A name that nobody tells is an alert that never comes, and an empty panel."""
    rules = yaml.safe_load((OPS / "prometheus/alerts.yaml").read_text())
    panels: list[dict[str, Any]] = json.loads((OPS / "grafana/dashboard.json").read_text())["panels"]
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    asked += [target["expr"] for panel in panels for target in panel["targets"]]
    words = {word for expression in asked for word in _words(expression) if word.startswith("redirect_worker_")}
    assert words <= {f"redirect_worker_{name}" for name in scraped(web)}
    assert len(words) > 15


def _words(expression: str) -> list[str]:
    return "".join(letter if letter.isalnum() or letter == "_" else " " for letter in expression).split()


def test_without_a_database_it_says_so_and_tells_the_rest(servers: dict[str, str], tmp_path: Path) -> None:
    """200, so that Prometheus learns what is wrong and not only that something is."""
    own = make_service(servers, tmp_path)
    with gateway(own) as web:
        with away(own):
            found = scraped(web)
            assert value(found, "up", part="database") == 0
            assert value(found, "up", part="broker") == 1
            assert "queue_messages" in found
            assert "copies_behind" not in found
        assert web.get("/healthz").status == 200


@pytest.mark.slow
def test_a_million_redirects_make_no_scrape_dearer(servers: dict[str, str], tmp_path: Path) -> None:
    """What is counted once is not counted again: with a hundred times the rows a scrape takes about as long."""
    own = make_service(servers, tmp_path)
    seconds = []
    for first, last in ((1, 10_000), (10_001, 1_000_000)):
        for start in range(first, last, 90_000):  # each within the statement timeout
            execute(own, DECIDED.format(first=start, last=min(last, start + 89_999)))
        execute(
            own,
            "UPDATE counters SET updated_at = now() - interval '10 minutes', value = 0 WHERE name = 'counted'",
            "DELETE FROM counters WHERE name = 'redirects'",
            "ANALYZE redirects",
        )
        counted = {counter.name: counter.value for counter in counters.read(own.engine)}
        assert counted["redirects"] == last
        took = []
        for _ in range(9):
            started = time.perf_counter()
            counters.read(own.engine)
            took.append(time.perf_counter() - started)
        seconds.append(median(took))
    assert seconds[1] < 2 * seconds[0]


def test_it_wants_its_own_token(service: Service) -> None:
    """One of REDIRECT_METRICS_TOKENS, and neither a reader's nor nobody's."""
    with asking(service) as web:
        assert web.get("/metrics").status == 401
        assert web.get("/metrics", **bearer(token("*", scope="send operate"))).status == 401
        assert scraped(web, **bearer(SCRAPER))
