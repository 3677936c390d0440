"""Running one kind while processes and connections die."""

from collections.abc import Sequence

import pytest

from tests.integration.copies import Answer, Copies, left, raises
from tests.integration.ledgers import event, execute, file_effect, ledger_of, make_due
from tests.service import Service
from worker.db import side_effects
from worker.db.side_effects import LOST
from worker.effects import Settled
from worker.errors import Transient
from worker.policy import POLICIES
from worker.redirects import State

ALL = ["a", "b", "c", "d"]


@pytest.fixture
def known(service: Service) -> Service:
    """A service that knows the conversations a, b, c and d, whose copies are all up to date."""
    ledger_of(service).accept([event(f"e-{name}", conversation_id=name) for name in ALL])
    execute(service, "DELETE FROM side_effects")
    return service


@pytest.mark.parametrize(("kind", "remains"), [("cache", True), ("websocket", False)])
def test_a_row_whose_last_attempt_killed_its_process_is_not_tried_again(
    known: Service, kind: str, remains: bool
) -> None:
    """It is looked at once more, to be given up: a killer never runs more often than its policy says."""
    attempts = len(POLICIES[kind].steps) + 1
    file_effect(known, "a", kind=kind, failures=attempts, last_error=LOST)
    copies = Copies(kind)

    settled = copies.drain(known)

    assert copies.calls == []
    assert left(known) == ([(["a"], "dead", attempts + 1, f"Permanent: {LOST}")] if remains else [])
    assert len(settled.dead) == int(remains)


def test_invariant_4_an_attempt_that_dies_is_made_again(known: Service) -> None:
    """The failure is told before the attempt, so a death in the middle of it needs no last word; the kind is free."""
    file_effect(known, "a")

    with pytest.raises(SystemExit):
        Copies(answer=raises(SystemExit())).drain(known)
    assert left(known) == [(["a"], "waiting", 1, LOST)]
    make_due(known)

    assert Copies().drain(known) == Settled(written=1)
    assert left(known) == []


def test_invariant_4_after_one_kill_all_is_written_at_the_next_due_time(known: Service) -> None:
    """The fault has ended: at the policy's next due time nobody is behind."""
    file_effect(known, *ALL)
    with pytest.raises(SystemExit):
        Copies(answer=raises(SystemExit())).drain(known)
    make_due(known)

    Copies().drain(known)

    assert left(known) == []


def test_invariant_4_a_killer_ends_and_its_neighbours_are_written(known: Service) -> None:
    """One conversation that kills whoever writes it: the others of its row are written, and the killing ends."""
    file_effect(known, *ALL, kind="websocket")
    attempts = len(POLICIES["websocket"].steps) + 1
    killed = 0

    def answer(states: Sequence[State]) -> Answer:
        if "c" in [state.conversation_id for state in states]:
            raise SystemExit
        return {}

    copies = Copies("websocket", answer)
    for _ in range(2 * attempts):
        make_due(known)
        try:
            copies.drain(known)
        except SystemExit:
            killed += 1

    assert sorted(copies.shown) == ["a", "b", "d"]
    assert left(known) == []
    assert 0 < killed <= attempts


def test_invariant_4_a_settlement_that_fails_is_made_good_by_the_next_run(known: Service) -> None:
    """The database goes away between the write and its settlement: nothing is lost, the second write does no harm."""
    file_effect(known, "a")

    def answer(_: Sequence[State]) -> Answer:
        known.rows(
            """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )
        return {}

    with pytest.raises(Transient):
        Copies(answer=answer).drain(known)
    make_due(known)

    assert Copies().drain(known) == Settled(written=1)
    assert left(known) == []


def test_invariant_5_a_kind_in_other_hands_is_left_to_them(known: Service) -> None:
    """A second run returns at once; a run of another kind is not held up."""
    file_effect(known, "a")
    file_effect(known, "a", kind="record")
    copies, records = Copies(), Copies("record")

    with side_effects.desk(known.engine) as other:
        assert side_effects.claim(other, "cache", POLICIES["cache"], limit=0, jitter=0)
        assert copies.drain(known) == Settled()
        assert records.drain(known) == Settled(written=1)

    assert copies.calls == []
    assert left(known) == [(["a"], "waiting", 0, None)]
