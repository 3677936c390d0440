"""Numbers that only grow: each redirect and refusal counted once, whoever asks and how often."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.ledgers import event, execute, file_effect, ledger_of
from tests.service import Service
from worker.db import counters, side_effects
from worker.db.counters import Count

COUNTING_SINCE = "UPDATE counters SET updated_at = now() - make_interval(hours => 3) WHERE name = 'counted'"


def values(service: Service, name: str) -> dict[tuple[str, ...], float]:
    return {counter.labels: counter.value for counter in counters.named(counters.read(service.engine), name)}


def test_redirects_and_refusals_are_counted_at_once_and_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this moment, those of before, and again when both are old; by destination, outcome and code."""
    ledger_of(service).accept([event("e1"), event("e2"), event("e3", "sales"), event("e4", "nowhere")])
    applied = {("billing", "applied"): 1, ("billing", "noop"): 1, ("sales", "applied"): 1}
    assert values(service, "redirects") == applied
    assert values(service, "rejected_events") == {("unknown_destination",): 1}

    monkeypatch.setattr(counters, "SETTLED", 0)
    for _ in range(2):
        assert values(service, "redirects") == applied
        assert values(service, "rejected_events") == {("unknown_destination",): 1}

    ledger_of(service).accept([event("e5", "ai"), event("e6", "sales")])
    assert values(service, "redirects") == applied | {("ai", "applied"): 1, ("sales", "applied"): 2}


def test_what_is_kept_from_before_counting_began_is_not_counted(service: Service) -> None:
    """It may be much, and a counter that begins at nothing is what Prometheus expects."""
    ledger_of(service).accept([event("e1")])
    execute(service, "UPDATE redirects SET received_at = now() - make_interval(days => 1)")
    assert values(service, "redirects") == {}


def test_many_who_ask_at_once_count_once(service: Service) -> None:
    """Gateways that are scraped together."""
    execute(service, COUNTING_SINCE)
    ledger_of(service).accept([event(f"e{n}", "billing", f"c{n}") for n in range(100)])
    execute(service, "UPDATE redirects SET received_at = received_at - make_interval(mins => 5)")
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: values(service, "redirects"), range(16)))
    assert seen == [{("billing", "applied"): 100}] * 16


def test_how_long_copies_took_is_counted_when_they_are_written(service: Service) -> None:
    """Each copy of a row, in the bucket of the time since it was filed, and in the sum; what failed is not."""
    ids = [
        file_effect(service, "a", "b", created_at="now"),
        file_effect(service, "c"),
    ]
    execute(service, f"UPDATE side_effects SET created_at = now() - interval '20 s' WHERE id = {ids[1]}")
    with side_effects.desk(service.engine) as connection:
        side_effects.settle(connection, ids, [])
    (fresh, two), (late, one) = sorted(
        ((labels, value) for labels, value in values(service, "copy_seconds").items()), key=lambda item: -item[1]
    )
    assert (fresh[0], two, late, one) == ("cache", 2, ("cache", str(counters.BOUNDS.index(30.0))), 1)
    assert 20 <= values(service, "copy_seconds_sum")[("cache",)] < 25


def test_counts_are_added_by_name_and_labels(service: Service) -> None:
    """From nothing, and on top."""
    for _ in range(2):
        counters.tell(service.engine, Count("sweeps"), Count("drift_found", ("cache",), 3))
    assert (values(service, "sweeps"), values(service, "drift_found")) == ({(): 2}, {("cache",): 6})
