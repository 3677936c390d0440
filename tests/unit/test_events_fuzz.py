"""Whatever arrives, parsing it ends in an event or in a refusal."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from config.settings import DESTINATIONS
from worker.errors import Rejected
from worker.events import Event, parse

CODES = {"malformed", "too_large", "unknown_destination"}
VALID: dict[str, object] = {"event_id": "e1", "conversation_id": "c1", "destination": "ai"}

# All of Unicode, lone surrogates and NUL with it.
text = st.text(st.characters(exclude_categories=()), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)
times = st.sampled_from(["2026-11-22T10:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
# Near an event: what gets past the first check meets the next ones.
near_events = st.builds(
    lambda fields: VALID | fields,
    st.dictionaries(
        st.sampled_from(sorted(Event.model_fields)),
        values | times | st.sampled_from(sorted(DESTINATIONS)) | st.builds(dict, type=st.just("user"), id=values),
        max_size=5,
    ),
)


def outcome(raw: object) -> Event | Rejected:
    try:
        return parse(raw, DESTINATIONS)
    except Rejected as refused:
        return refused


def check(raw: object) -> None:
    """An event that every store can hold, or a refusal with a code of the contract and a reason."""
    result = outcome(raw)
    if isinstance(result, Rejected):
        assert result.code in CODES
        assert result.error
        return
    kept = json.dumps(result.model_dump(mode="json"), ensure_ascii=False, allow_nan=False).encode()
    assert b"\\u0000" not in kept.replace(b"\\\\", b"")
    assert result.destination in DESTINATIONS


@settings(deadline=None, max_examples=300)
@given(values | near_events)
@example({1: 2})
@example({"\ud800": 1})
@example(VALID | {"actor": {"type": "\ud800"}})
def test_invariant_6_any_value_is_an_event_or_is_refused(raw: object) -> None:
    """No value of JSON's types raises anything but Rejected."""
    check(raw)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | text)
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example("\ufeff{}")
@example("\ud800")
@example(b"[" * 60_000)
@example(b"-" + b"9" * 5000)
@example(b"1e999")
@example(json.dumps(VALID).encode("utf-16"))
@example(json.dumps(VALID).encode("utf-32-be"))
def test_invariant_6_any_bytes_are_an_event_or_are_refused(raw: bytes | str) -> None:
    """No bytes and no text raise anything but Rejected."""
    check(raw)


@settings(deadline=None, max_examples=300)
@given(near_events, st.data())
def test_invariant_6_damaged_events_are_events_or_are_refused(fields: dict[str, object], data: st.DataObject) -> None:
    """An event with bytes cut out or struck through raises nothing but Rejected."""
    whole = json.dumps(fields).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(start + 3, len(whole))))

    check(whole[:start] + data.draw(st.binary(max_size=3)) + whole[end:])


@settings(deadline=None, max_examples=500)
@given(near_events, st.booleans())
@example(VALID | {"metadata": {"a": 2**70, "b": 1e300, "c": -0.0, "d": True}}, False)
@example(VALID | {"unknown": [[[]]], "reason": "\ud83d\ude00 \u0000"}, True)
def test_text_and_what_it_says_are_the_same_event(fields: dict[str, object], ascii_only: bool) -> None:
    """JSON that is read and checked in one go is taken, and is refused, as its value is."""
    try:
        raw = json.dumps(fields, ensure_ascii=ascii_only)
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return
    of_text, of_value = outcome(raw), outcome(value)
    if isinstance(of_text, Event):
        assert of_text == of_value
        assert repr(of_text) == repr(of_value)  # True is not 1
    else:
        assert isinstance(of_value, Rejected)
        assert of_text.code == of_value.code


@given(st.sampled_from(["reason", "metadata"]), text, text)
def test_of_two_fields_of_one_name_the_last_holds(name: str, first: str, last: str) -> None:
    """As Python's decoder has it, and every other path of an event."""
    of = json.dumps if name == "reason" else (lambda value: json.dumps({"a": value}))
    raw = json.dumps(VALID)[:-1] + f', "{name}": {of(first)}, "{name}": {of(last)}' + "}"
    result = outcome(raw)
    assert repr(result) == repr(outcome(json.loads(raw)))
