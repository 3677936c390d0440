"""When a failed side effect is tried again: the table of the design, and what holds for any such table."""

from dataclasses import dataclass
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import LONGEST_QUICK_RETRY
from worker.policy import HOUR, MINUTE, POLICIES, GiveUp, Park, Policy, RetryIn, next_step


@dataclass(frozen=True)
class Row:
    """One line of the design's table, section 4."""

    task: str
    quick: tuple[float, ...]
    parked: tuple[float, ...]
    """The first waits, up to and including the second of the longest."""
    total: float
    given_up: str


TABLE = {
    "cache": Row("update_cache", (0.2, 1, 3, 10), (30, 60, 120, 240, 300, 300), 24 * HOUR, "dead"),
    "websocket": Row("notify_websocket", (0.2, 1, 3), (15, 30, 60, 60), 10 * MINUTE, "done"),
    "record": Row("save_conversation", (1, 3, 10, 30), (60, 120, 240, 480, 900, 900), 72 * HOUR, "dead"),
}
ORDER = {RetryIn: 0, Park: 1, GiveUp: 2}
# Three times the longest schedule there is. One that never ends fails its test here, and does not hang it.
ENDLESS = 1000


def ending(policy: Policy) -> Policy:
    """`policy`, whose schedule has an end: only then may it be asked for its steps."""
    parked = sum(1 for _ in islice(policy._parked(), ENDLESS))
    assert parked < ENDLESS, f"the schedule of {policy} does not end"
    return policy


kinds = pytest.mark.parametrize("kind", sorted(POLICIES))
policies = (
    st.sampled_from(sorted(POLICIES.values(), key=lambda policy: policy.task))
    | st.builds(
        Policy,
        st.just("a task"),
        st.lists(st.floats(0.1, 60), max_size=5).map(lambda waits: tuple(sorted(waits))),
        st.floats(1, 60),
        st.floats(60, 600),
        st.floats(0, 5000),
    )
).map(ending)


def waits(policy: Policy) -> list[RetryIn | Park]:
    """Every step before giving up, in order."""
    ending(policy)
    steps: list[RetryIn | Park] = []
    while not isinstance(step := next_step(policy, len(steps) + 1), GiveUp):
        steps.append(step)
        assert len(steps) < ENDLESS, f"{policy} never gives up"
    return steps


def test_the_kinds_are_those_of_the_table() -> None:
    """A fourth kind is a line here too."""
    assert POLICIES.keys() == TABLE.keys()


@kinds
def test_the_schedule_is_that_of_the_table(kind: str) -> None:
    """Quick waits, then parked: first, doubling, longest; then dead, or done."""
    policy, row = POLICIES[kind], TABLE[kind]

    steps = waits(policy)
    parked = [step.seconds for step in steps if isinstance(step, Park)]

    assert policy.task == row.task
    assert tuple(step.seconds for step in steps if isinstance(step, RetryIn)) == row.quick
    assert tuple(parked[: len(row.parked)]) == row.parked
    assert set(parked[len(row.parked) :]) <= {row.parked[-1]}
    assert policy.given_up == row.given_up


@kinds
def test_parking_lasts_as_long_as_the_table_says(kind: str) -> None:
    """The parked waits add up to the table's hours, the last one begun within them."""
    parked = [step.seconds for step in waits(POLICIES[kind]) if isinstance(step, Park)]

    assert sum(parked[:-1]) < TABLE[kind].total <= sum(parked)


def test_the_settings_know_the_longest_quick_retry() -> None:
    """The visibility timeout is checked against this figure: the broker holds no message longer."""
    assert max(wait for policy in POLICIES.values() for wait in policy.quick) == LONGEST_QUICK_RETRY


@settings(deadline=None)
@given(policies, st.integers(1, 10**30))
def test_every_count_of_failures_has_a_next_step(policy: Policy, failures: int) -> None:
    """Total: any number of failures, however absurd, has an answer of the three."""
    assert type(next_step(policy, failures)) in ORDER


@settings(deadline=None)
@given(policies, st.integers(1, 2000))
def test_steps_never_go_back(policy: Policy, failures: int) -> None:
    """Retry before park before give up, and no wait shorter than the one before it in its tier."""
    step, following = next_step(policy, failures), next_step(policy, failures + 1)

    assert ORDER[type(step)] <= ORDER[type(following)]
    if isinstance(step, RetryIn) and isinstance(following, RetryIn):
        assert step.seconds <= following.seconds
    if isinstance(step, Park) and isinstance(following, Park):
        assert step.seconds <= following.seconds


@settings(deadline=None)
@given(policies)
def test_every_schedule_ends(policy: Policy) -> None:
    """After the last step comes giving up, for ever."""
    last = len(waits(policy))

    assert last == len(policy.steps)
    assert isinstance(next_step(policy, last + 1), GiveUp)
    assert isinstance(next_step(policy, last + 10**6), GiveUp)
    assert all(seconds > 0 for seconds in policy.steps)
