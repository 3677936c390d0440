"""Accepting events on a real PostgreSQL: outcomes, repeats, order."""

from dataclasses import asdict
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.ledgers import event, gaps, ledger_of
from tests.service import Service
from worker.db.ledger import Ledger

NINE, TEN, ELEVEN = (f"2026-11-22T{hour:02}:00:00.120Z" for hour in (9, 10, 11))
_numbers = count(1)


@pytest.fixture
def ledger(service: Service) -> Ledger:
    return ledger_of(service)


def told(ledger: Ledger, *raws: object) -> list[tuple[str, str | None, int | None]]:
    return [(outcome.outcome, outcome.code, outcome.version) for outcome in ledger.accept(raws).outcomes]


def test_an_applied_event_is_state_redirect_and_side_effects(service: Service, ledger: Ledger) -> None:
    """One transaction writes the truth, the ledger's row with all that was said, and one effect of each kind."""
    said: dict[str, Any] = {
        "owner_id": "7",
        "source": "workflow/42",
        "reason": "پول",
        "metadata": {"order": 9917, "vip": True},
    }
    actor = {"type": "workflow", "id": "42"}

    accepted = ledger.accept([event("e1", occurred_at=TEN, actor=actor, **said)])

    (outcome,) = accepted.outcomes
    assert (outcome.outcome, outcome.version, outcome.previous_status, outcome.status) == (
        "applied",
        1,
        None,
        "support_active",
    )
    state = service.state("c1") or {}
    assert state.pop("updated_at")
    assert state == {
        "conversation_id": "c1",
        "owner_id": "7",
        "status": "support_active",
        "ai_enabled": False,
        "destination": "billing",
        "version": 1,
        "occurred_at": datetime(2026, 11, 22, 10, 0, 0, 120_000, tzinfo=UTC),
        "event_id": "e1",
    }
    (redirect,) = service.redirects()
    assert {name: redirect[name] for name in said} | {"actor": redirect["actor"]} == said | {"actor": actor}
    assert (redirect["outcome"], redirect["version"], redirect["destination"]) == ("applied", 1, "billing")
    effects = service.effects()
    assert [(row["kind"], row["conversation_ids"], row["state"], row["failures"]) for row in effects] == [
        (kind, ["c1"], "waiting", 0) for kind in ("websocket", "cache", "record")
    ]
    assert accepted.filed == [row["id"] for row in effects]


def test_nothing_is_accepted_without_events(service: Service, ledger: Ledger) -> None:
    """An empty list is an empty answer."""
    assert ledger.accept([]).outcomes == []


def test_invariant_2_a_repeated_event_gets_its_first_outcome(service: Service, ledger: Ledger) -> None:
    """Also after later redirects moved the state, also twice in one batch; nothing is written again."""
    first = ledger.accept([event("e1", occurred_at=NINE)]).outcomes
    ledger.accept([event("e2", "ai", occurred_at=TEN)])
    before = service.state("c1"), service.redirects(), service.effects()

    again = ledger.accept([event("e1", occurred_at=NINE), event("e1", occurred_at=NINE), event("e1")])

    assert [asdict(outcome) for outcome in again.outcomes] == [asdict(first[0])] * 3
    assert again.filed == []
    assert (service.state("c1"), service.redirects(), service.effects()) == before


def test_invariant_2_an_event_twice_in_its_first_batch_is_applied_once(service: Service, ledger: Ledger) -> None:
    """The second of the pair gets the first's outcome, whatever stands between them."""
    pair = event("e1", occurred_at=NINE)

    outcomes = told(ledger, pair, event("e2", "ai", occurred_at=TEN), pair)

    assert outcomes == [("applied", None, 1), ("applied", None, 2), ("applied", None, 1)]
    assert len(service.redirects()) == 2


def test_superseded_noop_and_their_repeats_are_remembered_too(service: Service, ledger: Ledger) -> None:
    """Every outcome but a rejection is a row of `redirects`, and is what a repeat is told."""
    batch = [event("e2", occurred_at=TEN), event("e1", "ai", occurred_at=NINE), event("e3", occurred_at=ELEVEN)]

    outcomes = told(ledger, *batch)

    assert outcomes == [("applied", None, 1), ("superseded", "stale", 1), ("noop", "same_destination", 1)]
    ledger.accept([event("e4", "ai")])
    assert told(ledger, *batch) == outcomes
    assert len(service.redirects()) == 4


def test_a_noop_files_no_side_effect(service: Service, ledger: Ledger) -> None:
    """There is nothing new that a copy could show."""
    ledger.accept([event("e1", occurred_at=NINE)])

    accepted = ledger.accept([event("e2", occurred_at=TEN), event("e0", "ai", occurred_at=NINE)])

    assert accepted.filed == []
    assert len(service.effects()) == 3


def test_an_owner_learned_late_files_side_effects(service: Service, ledger: Ledger) -> None:
    """The copies show the owner, so they follow; the version stays."""
    ledger.accept([event("e2", occurred_at=TEN)])

    accepted = ledger.accept([event("e1", "ai", occurred_at=NINE, owner_id="7")])

    assert len(accepted.filed) == 3
    assert [(state["owner_id"], state["version"]) for state in [service.state("c1") or {}]] == [("7", 1)]


@pytest.mark.parametrize(
    "other",
    [
        {"conversation_id": "c2"},
        {"destination": "ai"},
        {"owner_id": "8"},
        {"owner_id": None},
        {"reason": "another"},
        {"source": None},
        {"actor": {"type": "user"}},
        {"metadata": {"order": 2}},
        {"metadata": {"order": 1, "more": 1}},
        {"metadata": None},
        {"occurred_at": ELEVEN},
    ],
    ids=repr,
)
def test_the_same_id_with_other_content_is_a_conflict(service: Service, ledger: Ledger, other: dict[str, Any]) -> None:
    """It is rejected with the field that differs, and changes nothing: not even for a conversation of its own."""
    first = event("e1", occurred_at=TEN, owner_id="7", reason="one", source="s", metadata={"order": 1})
    second = first | {"event_id": "e2"}

    in_one_batch = told(ledger, first, first | other, second)
    later = told(ledger, second | other)

    conflict = ("rejected", "conflict", None)
    assert in_one_batch == [("applied", None, 1), conflict, ("noop", "same_destination", 1)]
    assert later == [conflict]
    assert [f"known with another {next(iter(other))}" in row["error"] for row in service.rejected()] == [True, True]
    assert len(service.redirects()) == 2
    assert len(service.rows("SELECT FROM conversation_states")) == 1


def test_a_repeat_is_recognised_however_postgresql_writes_numbers(ledger: Ledger) -> None:
    """PostgreSQL keeps a number's worth, not its spelling, and its own order of keys."""
    numbers = [100.0, 1e2, 2**63, -(2**64), -0.0, 1e308, 5e-324, 10**300]
    batch = [event(f"e{n}", conversation_id=f"c{n}", metadata={"n": number}) for n, number in enumerate(numbers)]
    batch.append(event("e9", conversation_id="c9", metadata={"b": 1, "a": 2}))

    assert told(ledger, *batch) == told(ledger, *batch) == [("applied", None, 1)] * 9


@pytest.mark.parametrize(
    ("first", "other"),
    [(1_234_567_890_123_456_789, 1_234_567_890_123_456_788), (True, 1)],
    ids=["snowflake", "boolean"],
)
def test_metadata_that_differs_by_a_hair_is_a_conflict(ledger: Ledger, first: object, other: object) -> None:
    """Two order numbers of 19 digits are two numbers, and true is no 1."""
    ledger.accept([event("e1", metadata={"order": first})])

    assert told(ledger, event("e1", metadata={"order": other})) == [("rejected", "conflict", None)]


def test_events_without_a_time_keep_the_order_of_their_list(service: Service, ledger: Ledger) -> None:
    """They get the time of receipt, each a little later than the one before, whatever their ids are."""
    destinations = ["ai", "billing", "sales", "ai", "support"]

    outcomes = told(ledger, *(event(f"e{9 - n}", name) for n, name in enumerate(destinations)))

    assert outcomes == [("applied", None, version) for version in range(1, 6)]
    assert (service.state("c1") or {})["destination"] == "support"
    moments = [row["occurred_at"] for row in service.redirects()]
    assert all(earlier < later for earlier, later in pairwise(moments))


def test_a_batch_after_another_is_later_than_it(ledger: Ledger) -> None:
    """The time of receipt is taken under the conversation's lock, so batches without times apply in turn."""
    for version in range(1, 21):
        assert told(ledger, event(f"e{99 - version}", ("ai", "billing")[version % 2])) == [("applied", None, version)]


events = st.lists(
    st.fixed_dictionaries(
        {
            "event_id": st.sampled_from([f"e{number}" for number in range(12)]),
            "conversation_id": st.sampled_from(["x", "y"]),
            "destination": st.sampled_from(["ai", "billing", "sales"]),
            "occurred_at": st.sampled_from([NINE, TEN]),
            "owner_id": st.sampled_from([None, "7"]),
        }
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda fields: fields["event_id"],
)


def settled(service: Service, ledger: Ledger, batches: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The states after these batches, in conversations of their own; names and versions aside."""
    room = f"{next(_numbers)}-"
    for batch in batches:
        own = ({name: room + fields[name] for name in ("event_id", "conversation_id")} for fields in batch)
        ledger.accept([fields | names for fields, names in zip(batch, own, strict=True)])
    return service.rows(
        """SELECT substr(conversation_id, :from) AS id, owner_id, status, ai_enabled, destination, occurred_at,
                  substr(event_id, :from) AS event_id
           FROM conversation_states WHERE starts_with(conversation_id, :room) ORDER BY 1""",
        room=room,
        **{"from": len(room) + 1},
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.data())
def test_invariant_2_any_order_and_batching_ends_in_the_same_states(
    service: Service, ledger: Ledger, events: list[dict[str, Any]], data: st.DataObject
) -> None:
    """One by one in order, or shuffled, doubled and cut into batches: the same rows, and versions without a gap."""
    arrived = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=4))))
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(arrived)), max_size=3))), len(arrived)]

    in_order = settled(service, ledger, [[fields] for fields in events])
    shuffled = settled(service, ledger, [list(arrived[start:end]) for start, end in pairwise(edges)])

    assert shuffled == in_order
    assert gaps(service) == []


def test_invariant_2_an_event_without_a_time_may_be_sent_again_through_the_outbox(service: Service) -> None:
    """It was decided when it was received first; received again, at another time, it gets its first outcome."""
    ledger, early, late = ledger_of(service), "2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z"
    first = ledger.accept([event("e1", received_at=early)]).outcomes
    assert ledger.accept([event("e1", received_at=late)]).outcomes == first
    (kept,) = service.redirects()
    assert kept["occurred_at"] == datetime.fromisoformat(early)
    assert service.rejected() == []


def test_a_time_of_receipt_that_is_too_far_ahead_is_refused_as_any_other(service: Service) -> None:
    """Whoever writes it into an event cannot win over later decisions by it."""
    (outcome,) = ledger_of(service).accept([event("e1", received_at="9999-01-01T00:00:00Z")]).outcomes
    assert (outcome.outcome, outcome.code) == ("rejected", "clock_skew")
