"""Running one kind: a real database, and a copy that fails as told."""

from collections.abc import Callable, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from config.settings import JITTER
from tests.integration.copies import Answer, Copies, left, raises
from tests.integration.ledgers import event, execute, file_effect, ledger_of, make_due
from tests.service import Service
from worker import effects
from worker.effects import Settled
from worker.errors import Permanent, Transient
from worker.policy import POLICIES
from worker.redirects import State

ALL = ["a", "b", "c", "d"]


def refuses(wrong: str) -> Callable[[Sequence[State]], Answer]:
    """Any group that `wrong` is in, as a whole: a statement that one row breaks for all."""

    def answer(states: Sequence[State]) -> Answer:
        if wrong in [state.conversation_id for state in states]:
            raise Permanent(f"{wrong} does not fit")
        return {}

    return answer


@pytest.fixture
def known(service: Service) -> Service:
    """A service that knows the conversations a, b, c and d, whose copies are all up to date."""
    ledger_of(service).accept([event(f"e-{name}", conversation_id=name) for name in ALL])
    execute(service, "DELETE FROM side_effects")
    return service


def test_what_is_written_is_no_longer_behind(known: Service) -> None:
    """All due rows of the kind in one call, the conversations in order and once each, with their present states."""
    file_effect(known, "c", "a")
    file_effect(known, "b", "a")
    other = file_effect(known, "d", kind="record")
    copies = Copies()

    settled = copies.drain(known)

    assert copies.calls == [["a", "b", "c"]]
    assert settled == Settled(written=3)
    assert [row["id"] for row in known.effects()] == [other]


def test_invariant_3_a_copy_shows_the_present_state_however_late_it_comes(service: Service) -> None:
    """Three redirects and three rows are one write, of the newest version."""
    ledger = ledger_of(service)
    for n, destination in enumerate(["billing", "ai", "sales"]):
        ledger.accept([event(f"e{n}", destination, "a")])
    copies = Copies()

    copies.drain(service)

    assert copies.calls == [["a"]]
    assert (copies.shown["a"].version, copies.shown["a"].destination) == (3, "sales")


def test_what_comes_while_nothing_is_found_is_looked_for_again(known: Service) -> None:
    """Its own ring found the kind taken and went away: whoever has the kind looks once more when it gives it back."""
    claims = count()

    def file_before_the_release(*call: Any) -> None:
        if "pg_advisory_unlock_all" in call[2] and next(claims) == 0:
            file_effect(known, "a")

    sqlalchemy.event.listen(known.engine, "before_cursor_execute", file_before_the_release)

    assert Copies().drain(known) == Settled(written=1)


def test_invariant_5_a_row_that_is_due_and_held_is_not_waited_for(known: Service) -> None:
    """An open transaction of somebody else has it: the run ends, with no ring for another that would find the same."""
    file_effect(known, "a")
    copies = Copies()

    with known.engine.connect() as holder:
        holder.execute(text("SELECT FROM side_effects FOR UPDATE"))
        assert copies.drain(known) == Settled()

    assert copies.drain(known) == Settled(written=1)


def test_a_conversation_without_a_state_holds_nobody_up(known: Service) -> None:
    """There is nothing to show: its row is done."""
    file_effect(known, "gone", "a")
    file_effect(known, "nobody")
    copies = Copies()

    assert copies.drain(known) == Settled(written=1)
    assert copies.calls == [["a"]]
    assert left(known) == []


def test_what_is_written_later_is_no_longer_dead(known: Service) -> None:
    """A conversation whose copy shows the present state again needs nobody's look; other dead, other kinds stay."""
    for dead in (["a"], ["b", "c"], ["d"]):
        file_effect(known, *dead, state="dead", last_error="for good")
    file_effect(known, "a", kind="record", state="dead", last_error="for good")
    file_effect(known, "a", "b")

    Copies().drain(known)

    assert [(row["kind"], row["conversation_ids"]) for row in known.effects()] == [
        ("cache", ["c"]),
        ("cache", ["d"]),
        ("record", ["a"]),
    ]


def test_a_part_that_fails_stays_behind_alone(known: Service) -> None:
    """The row shrinks to what failed, the dead are apart from the waiting, and the soonest retry is told."""
    file_effect(known, *ALL)
    copies = Copies(answer=lambda _: {"b": Transient("busy"), "c": Permanent("wrong type")})

    settled = copies.drain(known)

    # How often "b" was tried says the machine: it is due again after 0.2 s.
    rows = [(ids, state, error) for ids, state, _, error in left(known)]
    assert rows == [(["b"], "waiting", "Transient: busy"), (["c"], "dead", "Permanent: wrong type")]
    assert settled.written == 2
    assert settled.retry_in is not None
    assert 0 <= settled.retry_in <= 0.2 * (1 + JITTER)
    assert [(failure.conversation_ids, failure.dead) for failure in settled.dead] == [(["c"], True)]


def test_invariant_6_a_group_that_is_refused_is_written_item_by_item(known: Service) -> None:
    """The one that cannot be written is dead at once; its neighbours, of this row and of others, are written."""
    file_effect(known, "a", "b")
    file_effect(known, "c", "d")
    copies = Copies(answer=refuses("b"))

    settled = copies.drain(known)

    assert copies.calls == [ALL, ["a"], ["b"], ["c"], ["d"]]
    assert sorted(copies.shown) == ["a", "c", "d"]
    assert left(known) == [(["b"], "dead", 1, "Permanent: b does not fit")]
    assert settled.written == 3


def test_an_outage_in_the_middle_of_item_by_item_lets_all_wait(known: Service) -> None:
    """Nobody is dead because the store went away; what was written is written again."""
    file_effect(known, *ALL)

    def refused_then_gone(states: Sequence[State]) -> Answer:
        raise Permanent("no") if len(states) > 1 else Transient("gone")

    settled = Copies(answer=refused_then_gone).drain(known)

    assert left(known) == [(ALL, "waiting", 1, "Transient: gone")]
    assert settled.dead == []


@pytest.mark.parametrize("error", [Transient("refused"), RuntimeError("a bug"), OSError("no route")], ids=repr)
def test_an_outage_leaves_the_rows_waiting_with_the_reason(
    known: Service, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised: the rows that were tried wait, the rest is not even tried, and the soonest retry is told."""
    monkeypatch.setattr(effects, "ROUND", 1)
    file_effect(known, "a", "b")
    file_effect(known, "c")
    copies = Copies(answer=raises(error))

    settled = copies.drain(known)

    reason = f"{type(error).__name__}: {error}"
    assert left(known) == [(["a", "b"], "waiting", 1, reason), (["c"], "waiting", 0, None)]
    assert len(copies.calls) == 1
    assert settled.retry_in is not None
    assert (settled.written, settled.dead) == (0, [])


def test_a_parked_row_asks_for_no_quick_retry(known: Service) -> None:
    """Past the quick tier the sweep comes back to it, not the task."""
    file_effect(known, "a", failures=len(POLICIES["cache"].quick))

    settled = Copies(answer=raises(Transient("away"))).drain(known)

    assert settled == Settled(parked=1)
    assert left(known) == [(["a"], "waiting", 5, "Transient: away")]


@pytest.mark.parametrize(("kind", "remains"), [("cache", True), ("record", True), ("websocket", False)])
def test_the_last_failure_is_dead_or_done(known: Service, kind: str, remains: bool) -> None:
    """A cache or record given up is dead with its reason; a browser gets a snapshot, so its row is done."""
    attempts = len(POLICIES[kind].steps) + 1
    file_effect(known, "a", kind=kind, failures=attempts - 2)
    copies = Copies(kind, raises(Transient("away")))

    before_last = copies.drain(known)
    assert left(known) == [(["a"], "waiting", attempts - 1, "Transient: away")]
    make_due(known)
    last = copies.drain(known)

    assert left(known) == ([(["a"], "dead", attempts, "Transient: away")] if remains else [])
    assert [len(before_last.dead), len(last.dead)] == [0, int(remains)]
    assert [before_last.given_up, last.given_up] == [0, int(not remains)]
    assert len(copies.calls) == 2


def test_what_is_filed_meanwhile_is_written_in_the_same_run(known: Service) -> None:
    """Who works looks again before it leaves, because nobody else may have been let in."""
    file_effect(known, "a")

    def answer(states: Sequence[State]) -> Answer:
        if states[0].conversation_id == "a":
            file_effect(known, "b")
        return {}

    copies = Copies(answer=answer)

    assert copies.drain(known).written == 2
    assert copies.calls == [["a"], ["b"]]


def test_a_run_without_end_ends_and_says_that_there_is_more(known: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that would never finish hands over to the next before its time limit."""
    ticks = count()
    monkeypatch.setattr(effects, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    file_effect(known, "a")

    def answer(_: Sequence[State]) -> Answer:
        file_effect(known, "a")
        return {}

    settled = Copies(answer=answer).drain(known)

    assert settled.more
    assert settled.written >= 1
    assert len(known.effects()) == 1
