"""A bad event of a batch fails alone, and is kept whole, once, with its reason."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.integration.ledgers import event, execute, ledger_of
from tests.service import Service
from worker.db import rejected
from worker.db.ledger import Ledger
from worker.errors import Permanent
from worker.redirects import Outcome

NINE, TEN = (f"2026-11-22T{hour:02}:00:00Z" for hour in (9, 10))


@pytest.fixture
def ledger(service: Service) -> Ledger:
    return ledger_of(service)


def ends(ledger: Ledger, *raws: object) -> list[str]:
    """The outcome of each event, or the code it was rejected with."""
    return [
        str(outcome.code) if outcome.outcome == "rejected" else outcome.outcome
        for outcome in ledger.accept(raws).outcomes
    ]


def clock(service: Service) -> datetime:
    """The database's."""
    now: datetime = service.rows("SELECT clock_timestamp() AS now")[0]["now"]
    return now


def forbid(service: Service, reason: str) -> None:
    """Make the database refuse what every check before it has let through."""
    execute(service, f"ALTER TABLE redirects ADD CONSTRAINT forced CHECK (reason IS DISTINCT FROM '{reason}')")


BAD: list[tuple[object, str]] = [
    (b"\xff\xfe\x00", "malformed"),
    ("redirect please", "malformed"),
    ([1, 2], "malformed"),
    (None, "malformed"),
    ({"event_id": "x1"}, "malformed"),
    (event("x2", conversation_id="a\x00b"), "malformed"),
    (event("x3", reason="\ud800"), "malformed"),
    (event("x4", metadata={"a": {}}), "malformed"),
    (event("x5", reason="x" * 70_000), "too_large"),
    (event("x6", "mars"), "unknown_destination"),
    (event("x7", expires_at=NINE), "expired"),
    (event("x8", occurred_at="9999-12-31T23:59:59Z"), "clock_skew"),
    (event("x9", conversation_id="good-0", owner_id="8"), "owner_mismatch"),
    (event("good-0", "sales", conversation_id="good-0"), "conflict"),
]


def test_invariant_6_bad_events_never_take_their_neighbours_down(service: Service, ledger: Ledger) -> None:
    """Between good events, every kind of bad one: each is rejected with its code, all others are applied."""
    batch: list[object] = [event("good-0", conversation_id="good-0", owner_id="7")]
    for n, (bad, _) in enumerate(BAD, start=1):
        batch += [bad, event(f"good-{n}", conversation_id=f"good-{n}")]

    outcomes = ends(ledger, *batch)

    assert outcomes[::2] == ["applied"] * (len(BAD) + 1)
    assert outcomes[1::2] == [code for _, code in BAD]
    assert len(service.redirects()) == len(BAD) + 1
    assert sorted(row["code"] for row in service.rejected()) == sorted(code for _, code in BAD)


def test_invariant_1_a_rejected_event_is_kept_whole(service: Service, ledger: Ledger) -> None:
    """The body is what came, byte for byte or as the JSON it was; with it the code, the reason and the way in."""
    bodies: list[object] = [event("e1", "mars", reason="پول"), '{"event_id": ', b"\xff\x00", "caf\u00e9", [1, "\x00"]]

    ledger.accept(bodies)

    kept = {row["body"]: row for row in service.rejected()}
    assert kept.keys() == {
        json.dumps(bodies[0], ensure_ascii=False),
        '{"event_id": ',
        "data:application/octet-stream;base64,/wA=",
        "café",
        '[1, "\\u0000"]',
    }
    first = kept[json.dumps(bodies[0], ensure_ascii=False)]
    assert (first["code"], first["source"]) == ("unknown_destination", "redirect_conversation")
    assert "should be one of: ai" in first["error"]


def test_invariant_1_a_rejected_event_is_kept_once(service: Service, ledger: Ledger) -> None:
    """However often it comes, in one batch or in many; for another reason it is another row."""
    bad = event("e1", "mars")

    assert ends(ledger, bad, bad) == ends(ledger, bad, bad) == ["unknown_destination"] * 2
    rejected.keep(service.engine, bad, "worker_lost", "it killed the process", "here")

    assert sorted(row["code"] for row in service.rejected()) == ["unknown_destination", "worker_lost"]


@pytest.mark.parametrize("sick", ["a\x00b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_invariant_6_what_is_said_about_a_rejected_event_may_be_any_text(service: Service, sick: str) -> None:
    """The reason and the way in come from producers too: a routing key may hold anything."""
    rejected.keep(service.engine, sick, "malformed", f"wrong: {sick}", sick)

    (row,) = service.rejected()
    assert row["source"] in {"a\\x00b", "a\\ud800b"}
    assert row["error"] == f"wrong: {row['source']}"


def test_a_refused_event_is_answered_by_its_names(ledger: Ledger) -> None:
    """The outcome names the event as far as it can be read, and no version or status."""
    outcomes = ledger.accept([event("e1", "mars"), {"event_id": 5, "conversation_id": "c1"}, 5]).outcomes

    assert outcomes == [
        Outcome("e1", "c1", "rejected", "unknown_destination", None, None, None, "mars"),
        Outcome(None, "c1", "rejected", "malformed", None, None, None, None),
        Outcome(None, None, "rejected", "malformed", None, None, None, None),
    ]
    assert outcomes[0].ai_enabled is None


def test_nothing_of_version_0_remains(service: Service, ledger: Ledger) -> None:
    """A conversation whose events were all rejected was never there: its lock leaves no row, and no side effect."""
    ledger.accept([event("e0", conversation_id="known")])
    effects = service.effects()

    refused = ends(
        ledger,
        event("e1", conversation_id="new", expires_at=NINE),
        event("e2", conversation_id="newer", occurred_at="9999-01-01T00:00:00Z"),
        event("e3", conversation_id="known", expires_at=NINE),
        event("e0", conversation_id="newest"),
    )

    assert refused == ["expired", "clock_skew", "expired", "conflict"]
    assert [row["conversation_id"] for row in service.rows("SELECT * FROM conversation_states")] == ["known"]
    assert service.effects() == effects


def test_a_conversation_with_one_good_event_remains(service: Service, ledger: Ledger) -> None:
    """Rejected neighbours of the same new conversation take nothing away."""
    batch = [event("e1", expires_at=NINE), event("e2"), event("e3", occurred_at="9999-01-01T00:00:00Z")]

    assert ends(ledger, *batch) == ["expired", "applied", "clock_skew"]
    assert (service.state("c1") or {})["version"] == 1


@pytest.mark.parametrize("position", [0, 3, 8])
def test_invariant_6_what_only_postgresql_refuses_is_found_by_halving(
    service: Service, ledger: Ledger, position: int
) -> None:
    """The one item stands alone in the end, rejected with PostgreSQL's words; the others are applied in order."""
    forbid(service, "forced")
    batch = [event(f"e{n}", ("ai", "billing")[n % 2]) for n in range(9)]
    batch[position]["reason"] = "forced"

    accepted = ledger.accept(batch)

    outcomes = [outcome.outcome for outcome in accepted.outcomes]
    assert outcomes.pop(position) == "rejected"
    assert set(outcomes) <= {"applied", "noop"}
    (row,) = service.rejected()
    assert (row["code"], json.loads(row["body"])["event_id"]) == ("malformed", f"e{position}")
    assert 'violates check constraint "forced"' in row["error"]
    assert sorted(accepted.filed) == [effect["id"] for effect in service.effects()]
    assert {row["event_id"] for row in service.redirects()} == {f"e{n}" for n in range(9)} - {f"e{position}"}


def test_invariant_6_several_that_postgresql_refuses_are_all_found(service: Service, ledger: Ledger) -> None:
    """Also when they are neighbours, and when nothing else is in the batch."""
    forbid(service, "forced")

    outcomes = ends(ledger, *(event(f"e{n}", reason="forced" if n in {0, 1, 4} else None) for n in range(5)))

    assert outcomes == ["malformed", "malformed", "applied", "noop", "malformed"]
    assert ends(ledger, event("e9", reason="forced")) == ["malformed"]
    assert len(service.rejected()) == 4


def test_a_ledger_that_cannot_even_reject_says_so(service: Service, ledger: Ledger) -> None:
    """It raises, so that the message is not acknowledged as done; it does not halve for ever."""
    execute(service, "ALTER TABLE rejected_events ADD CONSTRAINT forced CHECK (false)")

    with pytest.raises(Permanent, match="forced"):
        ledger.accept([event("e1", "mars")])


# By the database's clock.


def test_an_event_expires_by_its_own_time(service: Service, ledger: Ledger) -> None:
    """`expires_at` ahead is applied, past is `expired`; a repeat of what was applied in time is told so for ever."""
    now = clock(service)
    in_time = event("e1", expires_at=(now + timedelta(minutes=1)).isoformat())

    assert ends(ledger, in_time) == ["applied"]
    assert ends(ledger, event("e2", expires_at=(now - timedelta(microseconds=1)).isoformat())) == ["expired"]
    assert ends(ledger, in_time | {"expires_at": now.isoformat()}) == ["applied"]


def test_an_event_from_the_future_is_refused(service: Service, ledger: Ledger) -> None:
    """Within the skew it is applied; beyond, it would win over every later decision, and says how far it may be."""
    now = clock(service)

    assert ends(ledger, event("e1", occurred_at=(now + timedelta(seconds=290)).isoformat())) == ["applied"]
    assert ends(ledger, event("e2", occurred_at=(now + timedelta(seconds=360)).isoformat())) == ["clock_skew"]
    (row,) = service.rejected()
    assert "at most 300 s ahead of" in row["error"]


def test_times_are_judged_by_the_databases_clock(service: Service, ledger: Ledger) -> None:
    """With a database that is a day ahead, tomorrow is now and the next hour is past, whatever this machine thinks."""
    now = clock(service)
    execute(
        service,
        "CREATE SCHEMA ahead",
        """CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
           RETURN pg_catalog.clock_timestamp() + interval '1 day'""",
        f"ALTER DATABASE {service.engine.url.database} SET search_path = ahead, pg_catalog, public",
    )

    tomorrow = event("e1", occurred_at=(now + timedelta(days=1)).isoformat())
    within_the_hour = event("e2", expires_at=(now + timedelta(hours=1)).isoformat())

    assert ends(ledger, tomorrow, within_the_hour, event("e3")) == ["applied", "expired", "noop"]
    received = [row["received_at"] for row in service.redirects()]
    assert all(moment > now + timedelta(hours=23) for moment in received)


def test_another_owner_is_refused(service: Service, ledger: Ledger) -> None:
    """Known from an earlier batch or from the same one; the conversation stays as it was."""
    mine, theirs = event("e1", owner_id="7"), event("e2", "ai", owner_id="8")

    assert ends(ledger, mine, theirs) == ["applied", "owner_mismatch"]
    assert ends(ledger, theirs | {"event_id": "e3"}) == ["owner_mismatch"]
    state = service.state("c1") or {}
    assert (state["owner_id"], state["destination"], state["version"]) == ("7", "billing", 1)


def test_without_tolerance_for_skew_a_list_without_times_is_applied(service: Service) -> None:
    """The time of receipt is never ahead of itself."""
    assert ends(ledger_of(service, max_clock_skew=0), event("e1"), event("e2", "ai")) == ["applied", "applied"]


def test_invariant_6_the_first_year_is_read_in_any_time_zone(service: Service, ledger: Ledger) -> None:
    """A moment that was accepted can be read again, wherever the database lives."""
    execute(service, f"ALTER DATABASE {service.engine.url.database} SET timezone = 'America/New_York'")

    old: dict[str, Any] = event("e1", occurred_at="0001-01-01T00:00:00Z")

    assert ends(ledger, old) == ["applied"]
    assert ends(ledger, event("e2", "ai")) == ["applied"]
