"""Rejected events, back into the outbox: what their bodies hold, and that they are never in neither place."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text

from config.settings import DESTINATIONS
from tests.eventually import eventually
from tests.integration.ledgers import event, execute, ledger_of
from tests.service import Service
from worker import rejections, resubmit
from worker.db import outbox, rejected
from worker.errors import Permanent, Rejected, Transient
from worker.events import Event

NINE = "2026-01-15T09:00:00Z"
GOOD = event("e1", occurred_at=NINE)


def keep(service: Service, body: object, code: str = "failed") -> UUID:
    values = rejected.row(body, code, "no", "here")
    with service.engine.begin() as connection:
        rejected.insert(connection, values)
    return UUID(values["id"])


def parked(body: str, **headers: Any) -> dict[str, Any]:
    """A message as worker/guard/parking.py keeps it."""
    return {"headers": headers, "content_type": "application/json", "content_encoding": "utf-8", "body": body}


def again(service: Service, identity: UUID, *settings: str) -> list[Event]:
    return resubmit.resubmit(service.engine, identity, resubmit.changes(settings), DESTINATIONS)


def waiting(service: Service) -> list[dict[str, Any]]:
    return [row["body"] for row in service.rows("SELECT body FROM event_outbox ORDER BY id")]


CLOUD = {"specversion": "1.0", "type": "workflow.redirect", "source": "wf", "id": "e1", "subject": "c1"}
BODIES: list[tuple[object, list[str]]] = [
    (GOOD, ["e1"]),
    (json.dumps(GOOD), ["e1"]),
    (json.dumps(GOOD).encode("utf-16"), ["e1"]),
    ([GOOD, event("e2")], ["e1", "e2"]),
    (CLOUD | {"data": {"destination": "ai"}}, ["e1"]),
    (parked(json.dumps([[GOOD, json.dumps(event("e2"))], {}, {"callbacks": None}])), ["e1", "e2"]),
    (parked(json.dumps([[GOOD], event("e2"), {}])), ["e1", "e2"]),
    (parked(json.dumps({"task": "redirect_conversation", "args": [GOOD], "kwargs": {}})), ["e1"]),
    (parked(json.dumps([GOOD, event("e2"), event("e3")])), ["e1", "e2", "e3"]),
    (parked(json.dumps({"destination": "ai"}), **{f"ce-{name}": value for name, value in CLOUD.items()}), ["e1"]),
    (GOOD | {"task": "an unknown field", "args": "\x00"}, ["e1"]),
]


@pytest.mark.parametrize(("body", "ids"), BODIES, ids=range(len(BODIES)))
def test_what_a_body_holds_goes_to_the_outbox_and_can_be_applied(
    service: Service, body: object, ids: list[str]
) -> None:
    """An event, arrays, CloudEvents, calls of Celery of both protocols, bytes: all of it goes, and the row with it."""
    moved = again(service, keep(service, body))

    assert [each.event_id for each in moved] == ids
    assert service.rejected() == []
    with service.engine.begin() as connection:
        taken = outbox.take(connection, 10)
    assert {outcome.outcome for outcome in ledger_of(service).accept(taken).outcomes} <= {"applied", "noop"}


@pytest.mark.parametrize(
    "body",
    [
        "redirect please",
        b"\xff\x00",
        [],
        "data:application/octet-stream;base64,?",
        parked("not json"),
        parked("[[], {}, {}]"),
        parked(json.dumps([[5], {}, {}])),
        [GOOD, 5],
        5,
    ],
    ids=repr,
)
def test_what_holds_no_event_stays(service: Service, body: object) -> None:
    """It says so, and what to do; the row is as it was, and the outbox empty."""
    identity = keep(service, body)
    before = service.rejected()

    with pytest.raises(Rejected, match=r"send it again|mend it"):
        again(service, identity)

    assert (service.rejected(), waiting(service)) == (before, [])


@pytest.mark.parametrize(
    ("wrong", "says", "mended"),
    [
        ({"destination": "cats"}, "should be one of: ai", ["destination=sales"]),
        ({"owner_id": 7}, "owner_id", ["owner_id=7"]),
        ({"owner_id": "x" * 201}, "owner_id", ["owner_id=null"]),
        ({"metadata": {"a": {}}}, "metadata", ['metadata={"a": 1}']),
        ({"expires_at": NINE}, "expires_at has passed", ["expires_at=null"]),
        ({"reason": "a\x00b"}, "NUL", ["reason=a b", "destination=ai"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_would_be_refused_again_is_refused_at_once_unless_mended(
    service: Service, wrong: dict[str, Any], says: str, mended: list[str]
) -> None:
    """With the sentence of the refusal, and it stays; with the field set right it goes."""
    identity = keep(service, GOOD | wrong)
    with pytest.raises(Rejected, match=says):
        again(service, identity)
    assert (len(service.rejected()), waiting(service)) == (1, [])

    again(service, identity, *mended)

    (body,) = waiting(service)
    assert service.rejected() == []
    assert {"event_id": "e1", "conversation_id": "c1"}.items() <= body.items()


def test_one_bad_event_keeps_its_whole_row(service: Service) -> None:
    """A message of several events goes as a whole or stays as a whole."""
    identity = keep(service, [GOOD, event("e2", "cats")])

    with pytest.raises(Rejected, match="cats"):
        again(service, identity)

    assert (len(service.rejected()), waiting(service)) == (1, [])


def test_several_events_cannot_get_one_identity(service: Service) -> None:
    """The second would be a conflict with the first."""
    with pytest.raises(Rejected, match="one event_id"):
        again(service, keep(service, [GOOD, event("e2")]), "event_id=new")


def test_what_cannot_be_set_is_said(service: Service) -> None:
    """A field that no event has would be ignored in silence."""
    for wrong in ("destinaton=ai", "destination", "=ai"):
        with pytest.raises(Permanent, match="field=value"):
            resubmit.changes([wrong])


def test_an_event_without_a_time_was_decided_when_it_was_received(service: Service) -> None:
    """Sent again a week later it does not win over what was decided since; events of one row keep their order."""
    bodies = [{name: value for name, value in event(f"e{n}").items() if name != "occurred_at"} for n in range(3)]
    identity = keep(service, bodies)
    execute(service, "UPDATE rejected_events SET received_at = :at", at=datetime(2026, 1, 15, 9, tzinfo=UTC))

    again(service, identity)

    moments = [datetime.fromisoformat(body["received_at"]) for body in waiting(service)]
    assert moments == [datetime(2026, 1, 15, 9, tzinfo=UTC) + timedelta(microseconds=n) for n in range(3)]


@pytest.mark.parametrize("moment", ["DELETE FROM rejected_events", "INSERT INTO event_outbox", "commit"])
def test_invariant_1_killed_in_the_middle_it_is_still_rejected(service: Service, moment: str) -> None:
    """At any moment up to the commit the row is there and the outbox empty; the next try does it all."""
    identity = keep(service, GOOD)

    def kill(connection: Any, *about: Any) -> None:
        if moment == "commit" or moment in about[1]:
            pid = connection.connection.dbapi_connection.get_backend_pid()
            with service.engine.connect() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    name = "commit" if moment == "commit" else "before_cursor_execute"
    sqlalchemy_event.listen(service.engine, name, kill)
    try:
        with pytest.raises(Transient):
            again(service, identity)
    finally:
        sqlalchemy_event.remove(service.engine, name, kill)

    assert (len(service.rejected()), waiting(service)) == (1, [])
    again(service, identity)
    assert (service.rejected(), len(waiting(service))) == ([], 1)


def test_two_people_send_it_once(service: Service) -> None:
    """The second waits for the first, and hears that it is not there any more."""
    identity = keep(service, GOOD)
    blocked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    with ThreadPoolExecutor(2) as pool, service.engine.connect() as holder:
        holder.execute(text("SELECT FROM rejected_events FOR UPDATE"))
        done = [pool.submit(again, service, identity) for _ in range(2)]
        eventually(lambda: len(service.rows(blocked)) == 2)
        holder.rollback()

    errors = [str(error) for future in done if (error := future.exception())]
    assert errors == ["it is not there any more"]
    assert len(waiting(service)) == 1


def test_an_id_is_found_by_its_beginning_when_that_is_one_row(service: Service) -> None:
    """With or without dashes, in any case; several, none and nonsense are told apart."""
    execute(
        service,
        """INSERT INTO rejected_events (id, source, code, error, body)
           SELECT CAST(id AS uuid), 's', 'failed', 'no', '{}' FROM unnest(CAST(:ids AS text[])) AS id""",
        ids=["abcdef01-0000-4000-8000-000000000000", "abcdef01-f000-4000-8000-000000000000", "ff" * 16],
    )

    for prefix in ("abcdef01-f", "ABCDEF01f", "abcdef01-f000-4000-8000-000000000000"):
        assert str(rejections.find(service.engine, prefix)).startswith("abcdef01-f")
    assert rejections.find(service.engine, "f") == UUID("ff" * 16)
    for prefix, says in (("abcdef01", "more than one"), ("b", "no rejected event"), ("", "first characters")):
        with pytest.raises(Permanent, match=says):
            rejections.find(service.engine, prefix)


def test_all_are_those_that_were_there_oldest_first(service: Service) -> None:
    """Page after page, also where many came in one moment; what is refused again meanwhile is not sent round."""
    execute(
        service,
        """INSERT INTO rejected_events (id, source, code, error, body, received_at)
           SELECT gen_random_uuid(), 's', CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END, 'no', n::text,
                  CAST('2026-01-15' AS timestamptz) + n / 700 * interval '1 s' FROM generate_series(0, 1699) AS n""",
    )

    ids = rejected.all_until_now(service.engine, "odd")
    first = next(ids)
    keep(service, GOOD, "odd")
    rest = list(ids)

    expected = service.rows(
        "SELECT id FROM rejected_events WHERE code = 'odd' AND body <> :new ORDER BY received_at, id",
        new=rejected.storable(GOOD),
    )
    assert [first, *rest] == [row["id"] for row in expected]
    assert len(rest) == 849
