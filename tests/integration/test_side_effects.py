"""The rows of what is behind: claimed with the failure written ahead, erased by success."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.integration.ledgers import execute, file_effect, make_due
from tests.service import Service
from worker.db import backlog, side_effects
from worker.db.side_effects import LAST_LOOK, LOST, Claimed, Failure
from worker.policy import POLICIES

KINDS = tuple(POLICIES)
LATER = datetime(9000, 1, 1, tzinfo=UTC)


@pytest.fixture
def connection(service: Service) -> Iterator[Connection]:
    with service.engine.connect() as connection:
        yield connection


def claim(connection: Connection, kind: str = "cache", limit: int = 100, jitter: float = 0) -> list[Claimed]:
    """The rows. The kind itself is given back, as if its holder had died."""
    claim = side_effects.claim(connection, kind, POLICIES[kind], limit=limit, jitter=jitter)
    assert claim is not None
    side_effects.release(connection)
    return list(claim.rows)


def row(service: Service, identity: int) -> dict[str, Any]:
    (found,) = service.rows("SELECT * FROM side_effects WHERE id = :id", id=identity)
    return found


def waiting(service: Service) -> list[list[str]]:
    return [effect["conversation_ids"] for effect in service.effects() if effect["state"] == "waiting"]


# Claiming.


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_commits_the_failure_ahead(service: Service, connection: Connection, kind: str) -> None:
    """While the work goes on, others see one failure more, and the row due again at the policy's step."""
    steps = POLICIES[kind].steps
    counts = sorted({*range(6), len(steps) - 2, len(steps) - 1})
    filed = {file_effect(service, f"c{n}", kind=kind, failures=n): n for n in counts}

    claimed = {row.id: row for row in claim(connection, kind)}

    seen = {effect["id"]: effect for effect in service.effects()}
    assert claimed.keys() == seen.keys() == filed.keys()
    for identity, failures in filed.items():
        effect, mine = seen[identity], claimed[identity]
        assert (effect["failures"], effect["state"], effect["last_error"]) == (failures + 1, "waiting", LOST)
        assert effect["due_at"] - effect["updated_at"] == timedelta(seconds=steps[failures])
        assert (mine.conversation_ids, mine.failures) == ([f"c{failures}"], failures + 1)
        assert mine.due_in == pytest.approx(steps[failures])


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_attempt_is_looked_at_once_more(service: Service, connection: Connection, kind: str) -> None:
    """After the last step there is no next one to be due at; the row is due all the same, in case this attempt dies."""
    file_effect(service, "a", kind=kind, failures=len(POLICIES[kind].steps))

    (claimed,) = claim(connection, kind)

    assert claimed.due_in == LAST_LOOK


def test_jitter_only_lengthens_a_wait(service: Service, connection: Connection) -> None:
    """Each row waits between its step and a tenth more, and not all the same."""
    for n in range(20):
        file_effect(service, f"c{n}", failures=4)

    waits = [claimed.due_in for claimed in claim(connection, jitter=0.1)]

    assert all(30 <= wait <= 33 for wait in waits)
    assert len(set(waits)) > 1


def test_a_claimed_row_is_not_claimed_before_its_step(service: Service, connection: Connection) -> None:
    """Neither by another process nor by its own; when it is due, it is."""
    file_effect(service, "a", failures=4)
    claim(connection)

    with service.engine.connect() as other:
        assert claim(other) == claim(connection) == []
        make_due(service)
        assert [claimed.failures for claimed in claim(other)] == [6]


def test_a_claim_takes_what_is_due_oldest_first(service: Service, connection: Connection) -> None:
    """Of its kind, waiting and due, up to the limit; nothing else is touched."""
    file_effect(service, "record", kind="record")
    file_effect(service, "dead", state="dead", last_error="for good")
    execute(
        service, "INSERT INTO side_effects (kind, conversation_ids, due_at) VALUES ('cache', '{later}', 'infinity')"
    )
    for n in range(3):
        file_effect(service, f"c{n}")
    execute(service, "UPDATE side_effects SET due_at = due_at - interval '1 hour' WHERE 'c2' = ANY(conversation_ids)")

    claimed = claim(connection, limit=2)

    assert {row.conversation_ids[0] for row in claimed} == {"c2", "c0"}
    assert [effect["failures"] for effect in service.effects()] == [0, 0, 0, 1, 0, 1]


def test_invariant_5_a_claim_waits_for_nobody(service: Service, connection: Connection) -> None:
    """A row that another transaction holds is left to it."""
    held = file_effect(service, "held")
    file_effect(service, "free")

    with service.engine.connect() as holder:
        holder.execute(text("SELECT FROM side_effects WHERE id = :id FOR UPDATE"), {"id": held})
        claimed = claim(connection)

    assert [row.conversation_ids for row in claimed] == [["free"]]


def test_crashed_rows_come_after_all_others_one_at_a_time(service: Service, connection: Connection) -> None:
    """A row whose attempt never reported back is not claimed with rows that have done no harm."""
    for name in ("x", "y"):
        file_effect(service, name)
    claim(connection)
    make_due(service)
    for name in ("a", "b"):
        file_effect(service, name)

    claims = [[row.conversation_ids for row in claim(connection)] for _ in range(4)]

    assert sorted(claims[0]) == [["a"], ["b"]]
    assert sorted(claims[1:3]) == [[["x"]], [["y"]]]
    assert claims[3] == []


def test_crashed_rows_halve_until_the_killer_stands_alone(service: Service, connection: Connection) -> None:
    """Each crash takes half of the company away; nobody is ever in no row."""
    everybody = [f"c{n}" for n in range(7)]
    file_effect(service, *everybody)
    in_hand = [row.conversation_ids for row in claim(connection)]

    for _ in range(3):
        execute(
            service, "UPDATE side_effects SET due_at = now() + ('c0' <> ALL (conversation_ids))::int * interval '1 h'"
        )
        in_hand += [row.conversation_ids for row in claim(connection)]
        assert sorted(name for row in waiting(service) for name in row) == everybody

    assert in_hand == [everybody, everybody[:3], everybody[:1], everybody[:1]]
    assert {effect["last_error"] for effect in service.effects()} == {LOST}


def test_the_other_half_of_a_crashed_row_does_not_wait_longer(service: Service, connection: Connection) -> None:
    """It is due at once and as often tried as before: the attempt that now begins is not its own."""
    file_effect(service, *"abcd", failures=3)
    claim(connection)
    make_due(service)

    (first,) = claim(connection)

    (second,) = (effect for effect in service.effects() if effect["id"] != first.id)
    assert (first.conversation_ids, first.failures) == (["a", "b"], 5)
    assert (second["conversation_ids"], second["failures"], second["last_error"]) == (["c", "d"], 4, LOST)
    assert side_effects.due(service.engine, ["cache"]) == ["cache"]


# Settling.


def test_success_deletes_the_row(service: Service, connection: Connection) -> None:
    """What is written is not behind: nothing of it is left, and the others are as they were."""
    file_effect(service, "a", "b")
    other = file_effect(service, "c", kind="record")
    (claimed,) = claim(connection)

    side_effects.settle(connection, [claimed.id], [])

    assert [effect["id"] for effect in service.effects()] == [other]


def test_what_failed_stays_and_the_dead_part_from_the_waiting(service: Service, connection: Connection) -> None:
    """Each part is a row with its own reason and state; the schedule and the age are those of the row it was."""
    identity = file_effect(service, "a", "b", "c", "d", failures=4)
    (claimed,) = claim(connection)
    before = row(service, identity)

    busy, wrong = Failure(claimed, ["b", "d"], "busy", False), Failure(claimed, ["c"], "wrong type", True)
    side_effects.settle(connection, [], [busy, wrong])

    kept, split = service.effects()
    assert (kept["id"], kept["conversation_ids"], kept["state"], kept["last_error"]) == (
        identity,
        ["b", "d"],
        "waiting",
        "busy",
    )
    assert (split["conversation_ids"], split["state"], split["last_error"]) == (["c"], "dead", "wrong type")
    for name in ("kind", "failures", "due_at", "created_at"):
        assert kept[name] == split[name] == before[name]


def test_a_reason_is_cut_to_what_a_person_reads_and_a_row_holds(service: Service, connection: Connection) -> None:
    """An error of any length and any bytes can be kept."""
    file_effect(service, "a")
    (claimed,) = claim(connection)

    side_effects.settle(connection, [], [Failure(claimed, ["a"], "a\x00b" + "x" * 10_000, True)])

    (effect,) = service.effects()
    assert effect["last_error"].startswith("a\\x00b")
    assert len(effect["last_error"]) == side_effects.ERROR_LENGTH


def test_a_late_settlement_does_not_overwrite_a_later_claim(service: Service, connection: Connection) -> None:
    """Whoever claimed last knows better: a failure told after that changes nothing."""
    identity = file_effect(service, "a")
    (early,) = claim(connection)
    make_due(service)
    with service.engine.connect() as other:
        claim(other)
    before = row(service, identity)

    side_effects.settle(connection, [], [Failure(early, ["a"], "late", True)])

    assert service.effects() == [before]


def test_a_late_settlement_splits_nothing_off(service: Service, connection: Connection) -> None:
    """Also when it would have told two failures of one row: no second row of a verdict that is no longer its own."""
    identity = file_effect(service, "a", failures=4)
    (early,) = claim(connection)
    execute(service, "UPDATE side_effects SET failures = failures + 1")

    side_effects.settle(connection, [], [Failure(early, ["a"], "late", False), Failure(early, ["b"], "late", True)])

    assert [effect["id"] for effect in service.effects()] == [identity]


# Asking.


def test_due_are_the_kinds_that_have_rows_due_now(service: Service) -> None:
    """Not those whose rows wait for later or are dead, nor those that nobody asked for."""
    file_effect(service, "a", kind="record")
    file_effect(service, "a", kind="cache", state="dead", last_error="for good")
    file_effect(service, "a", kind="websocket", due_at=LATER)

    assert side_effects.due(service.engine, KINDS) == ["record"]
    assert side_effects.due(service.engine, ["cache", "websocket"]) == []


def test_a_kind_is_rung_unless_an_older_row_waits_for_its_ring(service: Service) -> None:
    """Only an older row, due lately and unclaimed, shows that a ring is still on its way."""
    file_effect(service, "a", kind="on_its_way")
    file_effect(service, "a", kind="claimed", failures=1)
    file_effect(service, "a", kind="dead", state="dead", last_error="for good")
    file_effect(service, "a", kind="ring_lost", due_at=datetime.now(UTC) - timedelta(minutes=2))
    file_effect(service, "a", kind="not_due", due_at=datetime.now(UTC) + timedelta(minutes=2))
    kinds = ["none", "claimed", "dead", "ring_lost", "not_due", "on_its_way"]
    mine = [file_effect(service, "b", kind=kind) for kind in kinds]

    assert side_effects.unheard(service.engine, kinds, mine, window=60) == kinds[:-1]


def test_behind_are_the_conversations_that_a_row_names(service: Service, connection: Connection) -> None:
    """Of any kind, waiting or dead; of those asked for."""
    file_effect(service, "a", "b")
    file_effect(service, "c", kind="record", state="dead", last_error="for good")

    assert backlog.unfinished(connection, ["a", "c", "d"]) == {"a", "c"}
