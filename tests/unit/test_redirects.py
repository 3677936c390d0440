"""The decision: what an event does to a conversation, and that the order of arrival leaves no trace."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import Rejected
from worker.events import Event, parse
from worker.redirects import Outcome, State, copies_differ, fold, status_of

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TIMES = [NOON + timedelta(microseconds=step) for step in range(4)]


def event(event_id: str, destination: str, at: int = 0, owner_id: str | None = None) -> Event:
    fields = {"event_id": event_id, "conversation_id": "c1", "destination": destination, "owner_id": owner_id}
    return parse(fields | {"occurred_at": TIMES[at].isoformat()}, ["ai", "billing", "sales"])


def step(state: State | None, happened: Event) -> tuple[State, Outcome]:
    assert happened.occurred_at is not None
    return fold(state, happened, happened.occurred_at)


def after(events: Iterable[Event], state: State | None = None) -> State | None:
    for happened in events:
        state, _ = step(state, happened)
    return state


# Few times and few ids, so that decisions of one moment are common.
events_of_one_conversation = st.lists(
    st.builds(
        event,
        st.sampled_from([f"e{number}" for number in range(20)]),
        st.sampled_from(["ai", "billing", "sales"]),
        st.integers(0, 2),
        st.sampled_from([None, "7"]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda happened: happened.event_id,
)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]]]:
    """A set of events, and batches in which all of them arrive, in any order, some of them again."""
    events = draw(events_of_one_conversation)
    again = draw(st.lists(st.sampled_from(events), max_size=5))
    arrived = draw(st.permutations(events + again))
    cuts = sorted(draw(st.lists(st.integers(0, len(arrived)), max_size=4)))
    edges = [0, *cuts, len(arrived)]
    return events, [list(arrived[start:end]) for start, end in pairwise(edges)]


@settings(deadline=None, max_examples=400)
@given(arrivals())
def test_invariant_2_any_order_ends_in_the_same_state(arrived: tuple[list[Event], list[list[Event]]]) -> None:
    """Any permutation, duplication and batching of a set of events ends in one state, version aside."""
    events, batches = arrived
    in_order = after(sorted(events, key=lambda happened: (happened.occurred_at, happened.event_id)))

    state: State | None = None
    for batch in batches:
        # Between batches the state is a row: no more of it than its fields survives.
        state = after(batch, replace(state) if state else None)

    assert state is not None
    assert in_order is not None
    assert replace(state, version=0) == replace(in_order, version=0)


@settings(deadline=None)
@given(events_of_one_conversation)
def test_invariant_2_the_last_decision_by_time_and_id_holds(events: list[Event]) -> None:
    """The state is that of the event with the greatest (`occurred_at`, `event_id`), whoever arrived last."""
    last = max(events, key=lambda happened: (happened.occurred_at, happened.event_id))

    state = after(events)

    assert state is not None
    assert (state.destination, state.occurred_at, state.event_id) == (last.destination, last.occurred_at, last.event_id)
    assert state.owner_id == ("7" if any(happened.owner_id for happened in events) else None)


@settings(deadline=None, max_examples=300)
@given(arrivals())
def test_invariant_3_the_version_grows_by_one_per_applied(arrived: tuple[list[Event], list[list[Event]]]) -> None:
    """`applied` adds exactly one to the version, everything else adds nothing, and each outcome tells the version."""
    state: State | None = None
    for happened in (happened for batch in arrived[1] for happened in batch):
        before = state.version if state else 0
        state, outcome = step(state, happened)

        assert state.version == before + (outcome.outcome == "applied")
        assert outcome.version == state.version
        assert (outcome.outcome, outcome.code) in {
            ("applied", None),
            ("noop", "same_destination"),
            ("superseded", "stale"),
        }


def test_the_first_event_is_applied() -> None:
    """A conversation begins with version 1, also when the AI had it anyway."""
    state, outcome = step(None, event("e1", "ai", owner_id="7"))

    assert state == State("c1", "7", "ai", 1, NOON, "e1")
    assert outcome == Outcome("e1", "c1", "applied", None, 1, None, "active", "ai")
    assert outcome.ai_enabled is True


def test_a_later_decision_moves_the_state() -> None:
    """Another destination later is one version more, and the outcome tells what was before."""
    state, outcome = step(State("c1", "7", "ai", 3, NOON, "e1"), event("e2", "billing", at=1))

    assert state == State("c1", "7", "billing", 4, TIMES[1], "e2")
    assert outcome == Outcome("e2", "c1", "applied", None, 4, "active", "support_active", "billing")
    assert outcome.ai_enabled is False


def test_a_noop_moves_the_mark() -> None:
    """The same destination again is no new version, but what belongs before it no longer wins."""
    before = State("c1", "7", "billing", 3, NOON, "e1")

    state, outcome = step(before, event("e3", "billing", at=2))
    late, superseded = step(state, event("e2", "ai", at=1))

    assert state == replace(before, occurred_at=TIMES[2], event_id="e3")
    assert (outcome.outcome, outcome.code, outcome.version) == ("noop", "same_destination", 3)
    assert superseded.outcome == "superseded"
    assert late == state


@pytest.mark.parametrize(
    "late", [event("e9", "ai", at=0), event("e1", "ai", at=1), event("e2", "ai", at=1)], ids=["older", "tie", "itself"]
)
def test_superseded_changes_nothing(late: Event) -> None:
    """What is not newer than the mark is recorded and moves nothing; of one moment, the greater event_id is newer."""
    before = State("c1", "7", "billing", 3, TIMES[1], "e2")

    state, outcome = step(before, late)

    assert state == before
    assert outcome == Outcome(late.event_id, "c1", "superseded", "stale", 3, "support_active", "support_active", "ai")


def test_of_one_moment_the_greater_event_id_wins() -> None:
    """Decisions of one moment are ordered by event_id."""
    before = State("c1", "7", "billing", 3, TIMES[1], "e2")

    state, outcome = step(before, event("e3", "ai", at=1))

    assert outcome.outcome == "applied"
    assert state.destination == "ai"


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        (event("e9", "ai", 0, "7"), "superseded"),
        (event("e3", "billing", 2, "7"), "noop"),
        (event("e3", "ai", 2, "7"), "applied"),
    ],
    ids=["superseded", "noop", "applied"],
)
def test_a_missing_owner_is_learned_from_any_event(told: Event, outcome: str) -> None:
    """Also from one that comes too late to change anything else; and the copies then have something new to show."""
    before = State("c1", None, "billing", 3, TIMES[1], "e2")

    state, happened = step(before, told)

    assert happened.outcome == outcome
    assert state.owner_id == "7"
    assert copies_differ(before, state)


def test_an_owner_is_never_forgotten() -> None:
    """An event that names no owner leaves the one that is known."""
    state, _ = step(State("c1", "7", "billing", 3, NOON, "e1"), event("e2", "ai", at=1))

    assert state.owner_id == "7"


@pytest.mark.parametrize("at", [0, 1, 2], ids=["older", "same moment", "newer"])
def test_another_owner_is_a_mismatch(at: int) -> None:
    """A conversation that is known to belong to one owner takes no event of another, old or new."""
    with pytest.raises(Rejected) as refused:
        step(State("c1", "7", "billing", 3, TIMES[1], "e2"), event("e3", "ai", at, owner_id="8"))

    assert refused.value.code == "owner_mismatch"
    assert "owner_id should be that of conversation 'c1'" in refused.value.error
    assert "7" not in refused.value.error


@pytest.mark.parametrize(
    ("events", "differ"),
    [
        ([event("e2", "ai", at=2)], True),
        ([event("e2", "billing", at=2)], False),
        ([event("e0", "ai", at=0)], False),
        ([event("e2", "ai", at=2), event("e3", "billing", at=3)], True),
    ],
    ids=["applied", "noop", "superseded", "there and back"],
)
def test_copies_follow_only_a_new_version_or_owner(events: Sequence[Event], differ: bool) -> None:
    """A no-op files no side effect; going there and back in one batch does, because the version moved."""
    before = State("c1", "7", "billing", 3, TIMES[1], "e1")
    state = after(events, before)

    assert state is not None
    assert copies_differ(before, state) is differ
    assert copies_differ(None, state)


@pytest.mark.parametrize("destination", ["support", "sales", "technical", "billing", "general", "a new team"])
def test_only_ai_lets_the_ai_speak(destination: str) -> None:
    """`ai` is active with the AI enabled; every other destination, also one added later, is people."""
    assert status_of("ai") == "active"
    assert status_of(destination) == "support_active"
    assert State("c1", None, "ai", 1, NOON, "e1").ai_enabled
    assert not State("c1", None, destination, 1, NOON, "e1").ai_enabled
