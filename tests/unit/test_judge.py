"""Whose word counts when the host's row and the state differ."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.hosts.pilito.judge import CHECKS, Guard, Verdict, destination_of, judge
from worker.redirects import State

THEN = datetime(2026, 11, 22, 10, tzinfo=UTC)
BILLING = State("c1", "7", "billing", 2, THEN, "e2")
TO_AI = State("c1", "7", "ai", 2, THEN, "e2")


def watched(before: str | None = "active", reasserted: bool = False) -> Guard:
    return Guard("c1", 2, before, THEN, THEN, reasserted)


CASES: list[tuple[str, State, Guard | None, Verdict]] = [
    ("support_active", BILLING, watched(), "agrees"),
    ("active", BILLING, watched(), "reassert"),  # saved as it was read before the redirect
    ("active", BILLING, watched(reasserted=True), "adopt"),  # once is an accident
    ("active", BILLING, None, "adopt"),  # long after
    ("active", BILLING, watched("marketing_active"), "reassert"),  # a workflow that ends
    ("marketing_active", BILLING, watched("marketing_active"), "reassert"),
    ("marketing_active", BILLING, watched(), "agrees"),  # one that begins
    ("active", BILLING, watched("support_active"), "adopt"),  # that is not what it was
    ("closed", BILLING, watched(), "closed"),
    ("closed", BILLING, watched("closed"), "reassert"),  # it was reopened
    ("closed", BILLING, None, "agrees"),
    ("support_active", TO_AI, None, "adopt"),
    ("active", TO_AI, None, "agrees"),
    ("active", BILLING, watched(None), "write"),  # the row came after the redirect
    ("support_active", TO_AI, watched(None), "write"),
]


@pytest.mark.parametrize(("status", "state", "guard", "verdict"), CASES)
def test_whose_word_counts(status: str, state: State, guard: Guard | None, verdict: Verdict) -> None:
    assert judge(status, state, guard) == verdict


def test_it_is_looked_at_three_times() -> None:
    """After 2, 10 and 45 seconds; a look that comes late is not made up for."""
    guard = watched()
    dues = []
    clock = THEN
    while (due := guard.next(clock)) is not None:
        dues.append((due - THEN).total_seconds())
        clock = due
    assert dues == list(CHECKS) == [2, 10, 45]
    assert guard.next(THEN + timedelta(seconds=30)) == THEN + timedelta(seconds=45)


def test_the_host_does_not_say_which_people() -> None:
    assert destination_of("active") == "ai"
    assert destination_of("support_active") == "support"
