"""The host's row moves with the ledger, and what the host decides by itself is followed."""

from typing import Any

import pytest

from tests.hosts.tables import conversation, ledger, row, saved, status, told
from tests.integration.ledgers import event, execute
from tests.service import Service


def apply(service: Service, *events: dict[str, Any]) -> list[dict[str, Any]]:
    return [outcome.as_dict() for outcome in ledger(service).accept(events).outcomes]


def guard(service: Service, name: str = "c1") -> dict[str, Any] | None:
    found = service.rows("SELECT * FROM guards WHERE conversation_id = :name", name=name)
    return found[0] if found else None


def pass_time(service: Service, seconds: float) -> None:
    """As if the redirects had been made so much earlier."""
    sql = "UPDATE guards SET since = since - make_interval(secs => :s), due_at = due_at - make_interval(secs => :s)"
    execute(service, sql, s=seconds)


def test_the_row_moves_in_the_ledgers_transaction(service: Service) -> None:
    """Status and updated_at, and nothing else of it."""
    conversation(service, "c1")
    before = row(service, "c1")

    [outcome] = apply(service, event("e1", "billing"))

    assert (outcome["outcome"], outcome["previous_status"], outcome["status"]) == (
        "applied",
        "active",
        "support_active",
    )
    after = row(service, "c1")
    assert after["status"] == "support_active"
    assert after["updated_at"] > before["updated_at"]
    same = set(before) - {"status", "updated_at"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    state = service.state("c1")
    assert state is not None
    assert state["owner_id"] == "7"


def test_a_row_is_never_made(service: Service) -> None:
    """A conversation that the host has not saved yet is written once it has."""
    conversation(service, "other")
    apply(service, event("e1", "billing", "c1"))
    assert service.rows("SELECT id FROM message_conversation") == [{"id": "other"}]

    conversation(service, "c1")
    ledger(service).look(["c1"])
    assert status(service, "c1") == "support_active"
    assert told(service, "c1") == [("applied", None)]
    assert guard(service) is not None


def test_another_owner_is_refused(service: Service) -> None:
    conversation(service, "c1")
    [outcome] = apply(service, event("e1", "billing", owner_id="8"))
    assert (outcome["outcome"], outcome["code"]) == ("rejected", "owner_mismatch")
    assert status(service, "c1") == "active"
    [outcome] = apply(service, event("e2", "billing", owner_id="7"))
    assert outcome["outcome"] == "applied"


def test_a_closed_conversation_stays_closed(service: Service) -> None:
    """Unless the event says `reopen`."""
    conversation(service, "c1", "closed")
    [outcome] = apply(service, event("e1", "billing"))
    assert (outcome["outcome"], outcome["code"], outcome["status"]) == ("noop", "closed", "closed")
    assert outcome["ai_enabled"] is False
    assert status(service, "c1") == "closed"

    [outcome] = apply(service, event("e2", "billing", metadata={"reopen": True}))
    assert outcome["outcome"] == "applied"
    assert status(service, "c1") == "support_active"


def test_an_event_twice_is_once(service: Service) -> None:
    conversation(service, "c1")
    first = apply(service, event("e1", "billing"), event("e1", "billing"))
    assert first[0] == first[1]
    saved(service, "c1", "closed")
    assert apply(service, event("e1", "billing")) == first[:1]


def test_the_same_destination_again_sets_the_row_right(service: Service) -> None:
    """A workflow that runs shows `marketing_active`: who asks for people gets them."""
    conversation(service, "c1")
    apply(service, event("e1", "billing"))
    saved(service, "c1", "marketing_active")
    [outcome] = apply(service, event("e2", "billing"))
    assert outcome["outcome"] == "noop"
    assert status(service, "c1") == "support_active"
    watched = guard(service)
    assert watched is not None
    assert watched["before"] == "marketing_active"


def test_a_stale_save_is_set_right_once(service: Service) -> None:
    """And recorded; the second time it is taken for a person's decision, and followed."""
    conversation(service, "c1")
    apply(service, event("e1", "billing"))

    saved(service, "c1", "active")
    ledger(service).look(["c1"])
    assert status(service, "c1") == "support_active"
    assert told(service, "c1") == [("applied", None), ("noop", "reasserted")]

    saved(service, "c1", "active")
    ledger(service).look(["c1"])
    assert status(service, "c1") == "active"
    assert told(service, "c1")[2:] == [("applied", "external_change")]
    state = service.state("c1")
    assert state is not None
    assert (state["destination"], state["version"], state["ai_enabled"]) == ("ai", 2, True)
    kinds = {effect["kind"] for effect in service.rows("SELECT kind FROM side_effects WHERE id > 3")}
    assert kinds == {"cache", "websocket", "record"}
    assert guard(service) is None


@pytest.mark.parametrize("decided", ["closed", "marketing_active"])
def test_what_a_person_decides_within_the_window_is_never_fought(service: Service, decided: str) -> None:
    conversation(service, "c1")
    apply(service, event("e1", "billing"))
    saved(service, "c1", decided)
    ledger(service).look(["c1"])
    assert status(service, "c1") == decided
    recorded = [("noop", "external_change")] if decided == "closed" else []
    assert told(service, "c1")[1:] == recorded


def test_after_the_window_every_change_is_a_persons(service: Service) -> None:
    """Three looks, at 2, 10 and 45 seconds; then nobody watches."""
    conversation(service, "c1")
    apply(service, event("e1", "billing"))
    for seconds in (2, 8, 35):
        pass_time(service, seconds)
        ledger(service).look(["c1"])
    assert guard(service) is None

    saved(service, "c1", "active")
    ledger(service).look(["c1"])
    assert status(service, "c1") == "active"
    assert told(service, "c1")[1:] == [("applied", "external_change")]


def test_a_look_before_its_time_does_not_use_it_up(service: Service) -> None:
    conversation(service, "c1")
    apply(service, event("e1", "billing"))
    due = (guard(service) or {})["due_at"]
    ledger(service).look(["c1"])
    assert (guard(service) or {})["due_at"] == due


def test_an_event_meets_what_the_host_has_decided_since(service: Service) -> None:
    """First the host's decision is followed, then the event is applied: the same destination is a change again."""
    conversation(service, "c1")
    apply(service, event("e1", "billing"))
    execute(service, "DELETE FROM guards")
    saved(service, "c1", "active")

    [outcome] = apply(service, event("e2", "billing"))

    assert (outcome["outcome"], outcome["version"]) == ("applied", 3)
    assert status(service, "c1") == "support_active"
    assert told(service, "c1").count(("applied", None)) == 2
    assert told(service, "c1").count(("applied", "external_change")) == 1


def test_given_back_to_the_ai_nothing_is_watched(service: Service) -> None:
    conversation(service, "c1")
    apply(service, event("e1", "billing"))
    [outcome] = apply(service, event("e2", "ai"))
    assert outcome["status"] == status(service, "c1") == "active"
    assert guard(service) is None


def test_a_late_event_changes_neither_row_nor_state(service: Service) -> None:
    conversation(service, "c1")
    apply(service, event("e2", "ai", occurred_at="2026-11-22T10:00:02Z"))
    apply(service, event("e3", "billing", occurred_at="2026-11-22T10:00:03Z"))
    [outcome] = apply(service, event("e1", "ai", occurred_at="2026-11-22T10:00:01Z"))
    assert outcome["outcome"] == "superseded"
    assert status(service, "c1") == "support_active"


def test_many_at_once(service: Service) -> None:
    """A batch over rows that are there, gone and closed: each fares as it would alone."""
    for number in range(20):
        conversation(service, f"c{number}", "closed" if number % 5 == 0 else "active")
    outcomes = apply(service, *[event(f"e{number}", "sales", f"c{number}") for number in range(25)])
    assert [outcome["outcome"] for outcome in outcomes[:20]].count("noop") == 4
    shown = {one["id"]: one["status"] for one in service.rows("SELECT id, status FROM message_conversation")}
    assert all(shown[f"c{n}"] == ("closed" if n % 5 == 0 else "support_active") for n in range(20))
