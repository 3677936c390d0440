"""The gate before Celery: what is known to kill or livelock a worker is refused, what producers send passes."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from worker.guard.shape import admitted, expired, in_short, problem

EVENT = {"event_id": "e1", "conversation_id": "c1", "destination": "ai"}
HEADERS: dict[str, object] = {"task": "redirect_conversation", "id": "t1"}
BODY: list[object] = [[EVENT], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
PRODUCER = Celery("outside", broker="memory://", set_as_current=False)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def as_sent(value: object) -> Any:
    return json.loads(json.dumps(value))


# Any JSON, and what a worker may meet inside one process: tuples, NaN, infinity, all of Unicode.
text = st.text(st.characters(exclude_categories=()), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)
FURTHEST = timedelta(hours=23, minutes=59)
zones = st.sampled_from([None, UTC, timezone(FURTHEST), timezone(-FURTHEST)])
times = st.datetimes(timezones=zones).map(datetime.isoformat)
fields = ("task", "id", "timelimit", "retries", "eta", "expires", "args", "kwargs", "callbacks")
messages = st.builds(
    lambda wrong: HEADERS | {"args": [], "kwargs": {}} | wrong,
    st.dictionaries(st.sampled_from(fields), values | times, max_size=3),
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"countdown": 30, "expires": 60},
        {"time_limit": 30, "soft_time_limit": 20.5},
        {"time_limit": 30},
        {"retries": 3},
        {"args": None, "kwargs": EVENT},
    ],
    ids=repr,
)
def test_what_celery_sends_passes(options: dict[str, Any]) -> None:
    """A message as Celery's own producer makes it, of protocol 2 and of protocol 1, with its options."""
    made = {"args": [EVENT], "kwargs": {}} | options

    second = PRODUCER.amqp.as_task_v2("t1", "redirect_conversation", **made)
    first = PRODUCER.amqp.as_task_v1("t1", "redirect_conversation", **made)

    assert problem(as_sent(second.headers), as_sent(second.body)) is None
    assert problem({}, as_sent(first.body)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": ["redirect_conversation"]},
        {"task": None},
        {"task": ""},
        {"task": 5},
        {"id": None},
        {"id": ""},
        {"id": 5},
        {"id": "x" * 256},
        {"timelimit": "x"},
        {"timelimit": ["x", None]},
        {"timelimit": [1]},
        {"timelimit": [-1, None]},
        {"timelimit": {}},
        {"timelimit": [float("nan"), None]},
        {"timelimit": [10**400, None]},
        {"retries": -1},
        {"retries": 10**6},
        {"retries": "1"},
        {"retries": 1.5},
        {"retries": ""},
        {"retries": []},
        {"eta": "9999-12-31T23:59:59+00:00"},
        {"eta": "9999-12-31T23:59:59-23:59"},
        {"eta": "tomorrow"},
        {"eta": 5},
        {"eta": ""},
        {"eta": ["2026-11-22T10:00:00"]},
        {"expires": "soon"},
        {"expires": {}},
    ],
    ids=lambda wrong: repr(wrong)[:50],
)
def test_invariant_6_a_poison_field_is_named(wrong: dict[str, object]) -> None:
    """The problem is the field's, in the headers of protocol 2 and in the body of protocol 1 alike."""
    (field,) = wrong

    for found in (problem(HEADERS | wrong, BODY), problem({}, HEADERS | {"args": [], "kwargs": {}} | wrong)):
        assert found is not None
        assert found.startswith(f"{field} should be ")


@pytest.mark.parametrize("field", ["task", "id"])
def test_invariant_6_a_message_without_task_or_id_is_a_problem(field: str) -> None:
    """A missing id livelocked a worker; a missing task is no task message."""
    headers = {name: value for name, value in HEADERS.items() if name != field}

    assert problem(headers, BODY)
    assert problem({}, headers | {"args": [], "kwargs": {}}) == f"{field} should be text"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([1, 2], "the body should be [args, kwargs, embed]"),
        (5, "the body should be [args, kwargs, embed]"),
        ({"a": 1}, "the body should be [args, kwargs, embed]"),
        (None, "the body should be [args, kwargs, embed]"),
        ("text", "the body should be [args, kwargs, embed]"),
        ("abc", "the body should be [args, kwargs, embed]"),
        ([], "the body should be [args, kwargs, embed]"),
        ([[], {}, {}, {}], "the body should be [args, kwargs, embed]"),
        ([5, {}, {}], "args should be an array"),
        ([{}, {}, {}], "args should be an array"),
        (["text", {}, {}], "args should be an array"),
        ([[], [], {}], "kwargs should be an object"),
        ([[], None, {}], "kwargs should be an object"),
        ([[], {}, []], "embed, the third part of the body, should be an object"),
        ([[], {}, "x"], "embed, the third part of the body, should be an object"),
        ([[], {}, {"task": "other"}], "embed, the third part of the body, should hold nothing but"),
        ([[nested(300)], {}, {}], "the body should be nested at most 200 levels deep"),
        ([[], {}, {"callbacks": [{"task": "other"}]}], "callbacks should be empty"),
        ([[], {}, {"errbacks": 5}], "errbacks should be empty"),
        ([[], {}, {"chain": [{"task": "other"}]}], "chain should be empty"),
        ([[], {}, {"chord": {"task": "other"}}], "chord should be empty"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invariant_6_a_body_of_the_wrong_shape_is_a_problem(body: object, says: str) -> None:
    """Bodies that kill a worker of Celery 5.7, with healthy headers."""
    assert str(problem(HEADERS, body)).startswith(says)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ([1, 2], 'there should be a header "task"'),
        (5, 'there should be a header "task"'),
        (None, 'there should be a header "task"'),
        ({"a": 1}, "task should be text"),
        (EVENT, "task should be text"),
        (HEADERS | {"args": 5}, "args should be an array"),
        (HEADERS | {"args": None}, "args should be an array"),
        (HEADERS | {"kwargs": [1]}, "kwargs should be an object"),
        (HEADERS | {"callbacks": [{"task": "other"}]}, "callbacks should be empty"),
        (HEADERS | {"args": [nested(300)]}, "the body should be nested at most 200 levels deep"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invariant_6_a_body_that_is_no_task_is_a_problem(payload: object, says: str) -> None:
    """Without a header "task" the body must be a message of protocol 1."""
    assert str(problem({}, payload)).startswith(says)


@pytest.mark.parametrize("headers", [None, [], "task", 5], ids=repr)
def test_invariant_6_headers_are_an_object(headers: object) -> None:
    """Also when a transport hands on what a producer wrote."""
    assert problem(headers, BODY) == "the headers should be an object"


@pytest.mark.parametrize(
    ("ahead", "passes"), [(timedelta(minutes=-5), True), (timedelta(minutes=30), True), (timedelta(hours=2), False)]
)
@pytest.mark.parametrize("zone", ["UTC", "naive"])
def test_an_eta_is_near(ahead: timedelta, passes: bool, zone: str) -> None:
    """What is held in a worker's memory is for the next hour at most, whether or not the time has a zone."""
    moment = datetime.now(UTC) + ahead
    eta = (moment if zone == "UTC" else moment.replace(tzinfo=None)).isoformat()

    assert (problem(HEADERS | {"eta": eta}, BODY) is None) is passes


@settings(deadline=None, max_examples=300)
@given(values | messages, values | messages | st.tuples(values, values, values).map(list))
@example({"task": "t", "id": "i", "eta": "0001-01-01T00:00:00+23:59"}, BODY)
@example(HEADERS, [[], {}, {"callbacks": float("nan")}])
def test_invariant_6_any_message_is_judged(headers: object, payload: object) -> None:
    """Whatever the headers and the body are, the answer is a reason or None, never an exception."""
    found = problem(headers, payload)

    assert found is None or (isinstance(found, str) and found)


def test_an_eta_in_the_past_means_now() -> None:
    """Celery is told of a time only when there is something to wait for."""
    past, soon = ((datetime.now(UTC) + timedelta(minutes=ahead)).isoformat() for ahead in (-5, 30))

    assert "eta" not in admitted(HEADERS | {"eta": past})
    assert admitted(HEADERS | {"eta": soon})["eta"] == soon


@settings(deadline=None, max_examples=100)
@given(messages | st.fixed_dictionaries({}, optional=dict.fromkeys(("eta", "expires", "retries"), values | times)))
@example({"eta": "0001-01-01T00:00:00+23:59", "expires": "9999-12-31T23:59:59-23:59"})
def test_invariant_6_what_passes_is_plain_to_celery(fields: dict[str, object]) -> None:
    """Of a message without a problem, Celery sees a task, an id and scalars, and is told whether it has expired."""
    message = HEADERS | fields
    assume(problem(message, BODY) is None)

    seen = admitted(message)

    assert {"task", "id"} <= seen.keys() <= message.keys()
    assert all(isinstance(value, str | int | float) for value in seen.values())
    assert expired(message) in {True, False}


REASONED = {"event_id": "e1", "conversation_id": "c1", "destination": "billing", "reason": "my account was hacked"}


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([REASONED], "(c1 -> billing [e1])"),
        ([json.dumps(REASONED)], "(c1 -> billing [e1])"),
        ([REASONED] * 5, "(c1 -> billing [e1], c1 -> billing [e1], c1 -> billing [e1], and 2 more)"),
        (["my account was hacked", 5, None], "(no event, no event, no event)"),
        ([{"conversation_id": "x" * 1000}], f"({'x' * 64} -> None [None])"),
        ([], "()"),
    ],
)
def test_flower_is_shown_who_goes_where_and_no_words(events: list[Any], shown: str) -> None:
    """Of the first three events; whatever stands there instead of an event is not repeated."""
    assert in_short(events) == shown
