"""Whatever a message holds: arbitrary bytes, headers and content types become events or reasons, never an error."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.events import MAX_BYTES
from worker.messages import TYPE, unpack

CLOUD = {"specversion": "1.0", "id": "e1", "type": TYPE, "source": "workflow/42", "subject": "c1"}
AMQP = {"cloudEvents:" + name: value for name, value in CLOUD.items()}
EVENT = json.dumps({"event_id": "e1", "conversation_id": "گفتگو", "destination": "billing"})

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
KEYS = st.one_of(
    st.sampled_from([*CLOUD, "time", "data", "data_base64", "event_id"]),
    st.text(st.characters(exclude_categories=()), max_size=5),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT, st.sampled_from(["1.0", TYPE, EVENT])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=10,
)
CLOUDS = st.fixed_dictionaries({"specversion": st.just("1.0"), "type": st.just(TYPE), "data": JSON, "id": JSON})
WRITTEN = st.one_of(JSON, CLOUDS, st.lists(CLOUDS, max_size=3)).flatmap(
    lambda value: st.sampled_from(
        [
            json.dumps(value),
            json.dumps(value, ensure_ascii=False),
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"),
            json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass"),
        ]
    )
)
BODIES = st.one_of(st.binary(max_size=60), st.text(st.characters(exclude_categories=()), max_size=60), WRITTEN)
TYPES = st.one_of(
    st.none(),
    st.sampled_from(["application/json", "application/cloudevents+json", "application/cloudevents-batch+json; x"]),
    ANY_TEXT,
)
NAMES = st.tuples(st.sampled_from(["cloudEvents:", "cloudEvents_", "ce-", ""]), KEYS).map("".join)
VALUES = st.one_of(JSON, st.binary(max_size=5), st.datetimes(), st.decimals(), st.just("%ff%00"))
HEADERS = st.one_of(
    st.none(),
    st.dictionaries(st.one_of(NAMES, st.integers(), st.binary(max_size=3)), VALUES, max_size=6),
    st.dictionaries(NAMES, VALUES, max_size=4).map(lambda more: AMQP | more),
)


@given(BODIES, TYPES, HEADERS)
def test_whatever_comes_is_events_or_reasons(body: bytes | str, content_type: str | None, headers: Any) -> None:
    """Nothing is raised and nothing vanishes; an event is JSON text of an object, and at most 64 KiB of UTF-8."""
    unpacked = unpack(body, content_type, headers)
    assert unpacked.events or unpacked.refused
    for event in unpacked.events:
        assert isinstance(json.loads(event), dict)
        assert len(event.encode()) <= MAX_BYTES
        assert "\x00" not in event
    assert sorted(unpacked.events_at + unpacked.refused_at) == list(range(len(unpacked.events) + len(unpacked.refused)))
    assert all(refusal.code in ("malformed", "too_large") for _, refusal in unpacked.refused)
