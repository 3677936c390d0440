"""The bundled records: what a save that comes late, or once more, does to them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.integration.ledgers import execute
from tests.service import Service
from worker.db.records import BundledRecords
from worker.redirects import FARTHEST, State

SALES = State("c1", None, "sales", 2, datetime(2026, 3, 1, tzinfo=UTC), "e2")
BILLING = replace(SALES, destination="billing", version=1, event_id="e1")


def test_invariant_3_a_late_save_does_not_take_a_record_back(service: Service) -> None:
    """It was on its way, in a frozen process or connection, while a newer one was written."""
    records = BundledRecords(service.engine)
    records.save([SALES])
    records.save([BILLING, replace(BILLING, conversation_id="c2")])
    assert [(row["id"], row["destination"], row["version"]) for row in saved(service)] == [
        ("c1", "sales", 2),
        ("c2", "billing", 1),
    ]


def test_an_owner_that_was_learned_late_comes_without_a_new_version(service: Service) -> None:
    records = BundledRecords(service.engine)
    records.save([SALES])
    records.save([replace(SALES, owner_id="o1")])
    assert [row["owner_id"] for row in saved(service)] == ["o1"]


@pytest.mark.parametrize("version", [SALES.version + FARTHEST + 1, 2**63 - 1])
def test_a_version_that_nobody_gave_is_overwritten(service: Service, version: int) -> None:
    """One of a million ahead: it is not the truth's to follow, and keeps no other record from being compared."""
    records = BundledRecords(service.engine)
    states = [SALES, replace(SALES, conversation_id="c2")]
    records.save(states)
    execute(service, "UPDATE conversations SET version = :version WHERE id = 'c1'", version=version)
    assert records.drifted(states) == {"c1": None}
    records.save(states)
    assert records.drifted(states) == {}


def test_a_version_that_was_once_ours_tells_how_far_the_truth_is_behind(service: Service) -> None:
    """After a restore: the truth gets a version above it."""
    records = BundledRecords(service.engine)
    records.save([replace(SALES, version=SALES.version + FARTHEST)])
    assert records.drifted([SALES]) == {"c1": SALES.version + FARTHEST}
    records.save([SALES])
    assert records.drifted([SALES]) == {"c1": SALES.version + FARTHEST}


def saved(service: Service) -> list[dict[str, object]]:
    return service.rows("SELECT * FROM conversations ORDER BY id")
