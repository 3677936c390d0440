"""A list item on Redis, before kombu reads it: what producers push passes, what kombu would trip over is named."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from celery import Celery
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.guard.envelope import envelope_problem

EVENT = {"event_id": "e1", "conversation_id": "c1", "destination": "ai"}
PRODUCER = Celery("outside", broker="memory://", set_as_current=False)

text = st.text(st.characters(exclude_categories=()), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


def envelope() -> dict[str, Any]:
    """The list item that a Celery producer puts into Redis, as kombu's virtual transports write it."""
    PRODUCER.send_task("redirect_conversation", args=[EVENT], queue="redirects")
    with PRODUCER.connection_for_read() as connection:
        channel: Any = connection.default_channel
        item: dict[str, Any] = channel._get("redirects")
    return item


def changed(item: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """`item` with the field at `path` (a.b.c) set to `value`; a value of ... takes the field out."""
    name, _, rest = path.partition(".")
    if rest:
        return {**item, name: changed(item[name], rest, value)}
    return {key: kept for key, kept in {**item, name: value}.items() if kept is not ...}


def test_what_kombu_sends_passes() -> None:
    """The whole item; also with a plain body, and without headers, as other kombu producers write it."""
    item = envelope()

    assert envelope_problem(json.dumps(item).encode()) is None
    plain = changed(changed(item, "body", "[[], {}, {}]"), "properties.body_encoding", ...)
    assert envelope_problem(json.dumps(plain).encode()) is None
    assert envelope_problem(json.dumps(changed(item, "headers", ...)).encode()) is None


@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"[" * 300 + b"]" * 300,
        b"redirect please",
        b"\xff\xfe",
        b"\x00",
        b"[" * 100_000,
        b"[1, 2]",
        b"5",
        b'"text"',
        b"null",
        b"NaN",
        b"{}",
    ],
    ids=lambda item: repr(item[:20]),
)
def test_invariant_6_a_raw_list_item_is_a_problem(item: bytes) -> None:
    """What a foreign producer may LPUSH: no JSON, no object, no envelope."""
    assert str(envelope_problem(item)).startswith("it should ")


def test_invariant_6_a_bare_event_on_the_list_is_a_problem() -> None:
    """The likeliest mistake: the event itself, pushed to the list."""
    assert envelope_problem(json.dumps(EVENT).encode()) == "it should have properties with delivery_info"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("properties", ..., "properties"),
        ("properties", 5, "properties"),
        ("properties.delivery_info", ..., "delivery_info"),
        ("properties.delivery_info", [], "delivery_info"),
        ("properties.delivery_tag", ..., "delivery_tag"),
        ("properties.delivery_tag", 5, "delivery_tag"),
        ("properties.body_encoding", "rot13", "body_encoding"),
        ("properties.body_encoding", 5, "body_encoding"),
        ("headers", [1], "headers"),
        ("headers", "x", "headers"),
        ("headers", None, "headers"),
        ("headers.deep", json.loads("[" * 300 + "]" * 300), "nested at most 200 levels deep"),
        ("body", ..., "body"),
        ("body", 5, "body"),
        ("body", [EVENT], "body"),
        ("body", "a", "base64"),
        ("body", "é", "base64"),
    ],
)
def test_invariant_6_a_damaged_envelope_is_a_problem(path: str, value: object, says: str) -> None:
    """Each part that kombu would trip over is named."""
    damaged = changed(envelope(), path, value)

    assert says in str(envelope_problem(json.dumps(damaged).encode()))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=100) | values.map(lambda value: json.dumps(value).encode()))
@example(b"1" * 5000)
@example(b'{"properties": {"delivery_info": {}, "delivery_tag": "", "body_encoding": ["base64"]}, "body": ""}')
def test_invariant_6_any_list_item_is_judged(item: bytes) -> None:
    """Whatever bytes are on the list, the answer is a reason or None, never an exception."""
    found = envelope_problem(item)

    assert found is None or (isinstance(found, str) and found)
