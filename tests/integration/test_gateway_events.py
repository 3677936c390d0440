"""`POST /events`: a producer is told what became of each event, and only once that is durable."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.gateways import Gateway
from tests.integration.posting import event, outbox, post
from tests.service import Service
from worker.db import receipts, rejected
from worker.db.outbox import take
from worker.events import MAX_BYTES
from worker.messages import unpack


@pytest.fixture(autouse=True)
def _clean(private: Service) -> None:
    with private.engine.begin() as connection:
        connection.execute(text("TRUNCATE event_outbox, rejected_events"))


def told(answer: Any) -> list[tuple[int, str | None, str]]:
    return [(one["position"], one["event_id"], one["code"]) for one in answer.body["rejected"]]


# Accepted.


def test_an_event_is_in_the_outbox_when_it_is_accepted(web: Gateway, private: Service) -> None:
    """202 names it; the row is there, with the fields that were sent and no other."""
    sent = event(
        "e1", "گفتگو", occurred_at="2026-11-22T13:30:00+03:30", metadata={"vip": True, "n": 0.5}, expires_at=None
    )
    answer = post(web, sent | {"unknown": {"a": [1]}})
    assert (answer.status, answer.body) == (202, {"accepted": ["e1"], "rejected": []})
    assert outbox(private) == [sent | {"occurred_at": "2026-11-22T10:00:00Z"}]


def test_events_of_an_array_are_stored_in_its_order(web: Gateway, private: Service) -> None:
    """And each has a later time than the one before, so that the last decision wins."""
    ids = [f"e{number}" for number in range(500, 0, -1)]
    assert post(web, [event(one) for one in ids]).body["accepted"] == ids
    assert [one["event_id"] for one in outbox(private)] == ids
    times = [row["created_at"] for row in private.rows("SELECT created_at FROM event_outbox ORDER BY id")]
    assert times == sorted(set(times))


def test_the_good_of_an_array_are_stored_and_the_bad_are_kept(web: Gateway, private: Service) -> None:
    """Each refusal has the position in the request, the id as far as it is known, its code and its reason."""
    bad = [5, event("e2", destination="nowhere"), [event("e3")], {"event_id": "e4"}, "e5", event("e7", metadata="x")]
    answer = post(web, [*bad[:3], event("e1"), *bad[3:], event("e6")])
    assert (answer.status, answer.body["accepted"]) == (202, ["e1", "e6"])
    assert told(answer) == [
        (0, None, "malformed"),
        (1, "e2", "unknown_destination"),
        (2, None, "malformed"),
        (4, "e4", "malformed"),
        (5, None, "malformed"),
        (6, "e7", "malformed"),
    ]
    assert all("should" in one["error"] or "required" in one["error"] for one in answer.body["rejected"])
    kept = {(row["source"], row["code"], row["body"]) for row in private.rejected()}
    # What is not a JSON object of its own is text as it is.
    bodies = [one if isinstance(one, str) else json.dumps(one, separators=(",", ":")) for one in bad]
    assert {body.replace(" ", "") for _, _, body in kept} == set(bodies)
    assert {source for source, _, _ in kept} == {"POST /events"}


def test_a_repeated_post_is_accepted_again(web: Gateway, private: Service) -> None:
    """The ledger knows the event_id; what was refused is kept once."""
    for _ in range(2):
        answer = post(web, [event("e1"), 5])
        assert (answer.status, answer.body["accepted"]) == (202, ["e1"])
    assert len(outbox(private)) == 2
    assert len(private.rejected()) == 1


def test_requests_that_repeat_each_other_at_once_all_succeed(private: Service) -> None:
    """What they refuse is locked in one order: no deadlock, and each is kept once."""
    rows = [rejected.row(number, "malformed", "no event", "here") for number in range(3000)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda these: receipts.keep(private.engine, [], these), [rows, rows[::-1]] * 2))
    assert len(private.rejected()) == len(rows)


# CloudEvents.

CLOUD = {"specversion": "1.0", "id": "e1", "type": "workflow.redirect", "source": "workflow/42", "subject": "گفتگو"}
STORED = {"event_id": "e1", "conversation_id": "گفتگو", "destination": "billing", "source": "workflow/42"}
DATA = {"destination": "billing"}


def test_a_structured_cloudevent(web: Gateway, private: Service) -> None:
    """application/cloudevents+json."""
    assert post(web, CLOUD | {"data": DATA}, "application/cloudevents+json; charset=utf-8").body["accepted"] == ["e1"]
    assert outbox(private) == [STORED]


def test_a_batch_of_cloudevents(web: Gateway, private: Service) -> None:
    """application/cloudevents-batch+json; a refused one is named by its id."""
    answer = post(web, [CLOUD | {"data": [1]}, CLOUD | {"data": DATA}], "application/cloudevents-batch+json")
    assert (answer.body["accepted"], told(answer)) == (["e1"], [(0, "e1", "malformed")])
    assert outbox(private) == [STORED]


def test_a_binary_cloudevent(web: Gateway, private: Service) -> None:
    """ce- headers, percent-encoded; the body is the data."""
    headers = {f"ce_{name}": value for name, value in CLOUD.items()} | {"ce_subject": "%DA%AF%D9%81%D8%AA%DA%AF%D9%88"}
    assert post(web, DATA, **headers).body["accepted"] == ["e1"]
    assert outbox(private) == [STORED]


# Refused.


def test_nothing_accepted_is_422_and_kept(web: Gateway, private: Service) -> None:
    """The same shape, with a detail; the whole body is in rejected_events."""
    answer = post(web, event("e1", destination="nowhere"))
    assert (answer.status, answer.body["accepted"], told(answer)) == (422, [], [(0, "e1", "unknown_destination")])
    assert answer.body["detail"] == "none of the events can be accepted"
    assert json.loads(private.rejected()[0]["body"]) == event("e1", destination="nowhere")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[[]]",
        b"redirect please",
        b"\xff\xfe\x00",
        b"\x00",
        b"[" * 10_000,
        b"NaN",
        b"1e999",
        b'"text"',
        json.dumps(event("e\x00")).encode(),
        json.dumps(event("e1", metadata={"\ud800": 1})).encode(),
        json.dumps(event("e1", metadata={"n": float("nan")})).encode(),
        json.dumps(event("\ud800")).encode(),
        json.dumps(event("e1", destination="\ud800")).encode(),
        json.dumps(event("e1", reason="x" * MAX_BYTES)).encode(),
    ],
    ids=lambda body: repr(body)[:30],
)
def test_whatever_is_no_event_is_422(web: Gateway, private: Service, body: bytes) -> None:
    """An answer that says what would be right, and one row that holds it."""
    answer = post(web, body)
    assert (answer.status, answer.body["accepted"], len(answer.body["rejected"])) == (422, [], 1)
    assert [row["error"] for row in private.rejected()]


@pytest.mark.parametrize("text", ["\x00", "\ud800"], ids=["NUL", "half a character"])
def test_what_jsonb_cannot_hold_is_ignored_in_unknown_fields(web: Gateway, private: Service, text: str) -> None:
    """Only the fields that we know are stored."""
    assert post(web, event("e1", unknown=text)).status == 202
    assert outbox(private) == [event("e1")]


def test_json_in_utf_16_is_read(web: Gateway, private: Service) -> None:
    """The encoding is found, not assumed."""
    assert post(web, json.dumps(event("e1")).encode("utf-16")).status == 202
    assert outbox(private) == [event("e1")]


def test_what_the_outbox_would_make_too_large_is_refused_now(web: Gateway, private: Service) -> None:
    """An accepted event is within the limits as PostgreSQL writes it out, its time added."""
    space = MAX_BYTES - len(json.dumps(event("e1", reason="")))
    assert told(post(web, event("e1", reason="x" * space))) == [(0, "e1", "too_large")]
    assert told(post(web, event("e2", metadata={str(n): 1e300 for n in range(20)}))) == [(0, "e2", "malformed")]
    assert post(web, event("e3", reason="x" * (space - 46))).status == 202
    with private.engine.begin() as connection:
        (taken,) = take(connection, 1)
    assert (len(taken), unpack(taken).events) == (MAX_BYTES, [taken])
