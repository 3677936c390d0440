"""What is an event and what is not: each refusal has its code, and says what would be right."""

import json
import math
from datetime import UTC, datetime

import pytest

from config.settings import DESTINATIONS
from worker.errors import Rejected
from worker.events import MAX_BYTES, Received, encode, parse

VALID = {"event_id": "wf42-7f3c", "conversation_id": "abc123", "destination": "billing"}
FULL = VALID | {
    "occurred_at": "2026-11-22T10:00:00.120Z",
    "owner_id": "7",
    "source": "workflow/42/node/7",
    "actor": {"type": "workflow", "id": "42"},
    "reason": "customer asked for a refund",
    "metadata": {"language": "fa", "order": 9917, "share": 0.5, "vip": True, "note": None},
    "expires_at": None,
}
PERSIAN = "مشتری می‌خواهد پولش را پس بگیرد 🙏"
DEPTH = 100_000


def refusal(raw: object) -> Rejected:
    with pytest.raises(Rejected) as refused:
        parse(raw, DESTINATIONS)
    return refused.value


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


# What is an event.


@pytest.mark.parametrize(
    "raw",
    [FULL, json.dumps(FULL), json.dumps(FULL).encode(), bytearray(json.dumps(FULL).encode())],
    ids=["dict", "str", "bytes", "bytearray"],
)
def test_an_event_may_be_a_dict_or_json_text_or_bytes(raw: object) -> None:
    """The same event is read from a decoded object, from text and from bytes."""
    event = parse(raw, DESTINATIONS)

    when = datetime(2026, 11, 22, 10, 0, 0, 120_000, tzinfo=UTC)
    assert event.model_dump(exclude={"received_at", "traceparent"}) == FULL | {"occurred_at": when}


def test_three_fields_are_enough() -> None:
    """Without a time of its own `occurred_at` is None: the ledger puts the time of receipt there."""
    event = parse(VALID, DESTINATIONS)

    assert event == Received(event_id="wf42-7f3c", conversation_id="abc123", destination="billing")
    assert event.occurred_at is None


def test_unknown_fields_are_ignored() -> None:
    """A producer may say more than we read, at the top and about the actor."""
    more = {"priority": 5, "actor": {"type": "user", "name": "Sara"}, "nested": {"a": [1]}}

    event = parse(VALID | more, DESTINATIONS)

    assert event == parse(VALID | {"actor": {"type": "user"}}, DESTINATIONS)


@pytest.mark.parametrize("field", ["event_id", "conversation_id", "owner_id", "source", "reason"])
def test_persian_text_is_untouched(field: str) -> None:
    """Text comes out as it went in: no normalisation, no trimming, also of what cannot be seen."""
    text = f" {PERSIAN}\u200c "

    for raw in (VALID | {field: text}, json.dumps(VALID | {field: text}, ensure_ascii=False).encode()):
        assert getattr(parse(raw, DESTINATIONS), field) == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-11-22T10:00:00Z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22t10:00:00z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22 13:30:00.5+03:30", datetime(2026, 11, 22, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-22T10:00:00.123456789-00:00", datetime(2026, 11, 22, 10, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_a_time_is_rfc_3339_and_becomes_utc(written: str, meant: datetime) -> None:
    """Every way RFC 3339 has to write a moment is the same moment."""
    event = parse(VALID | {"occurred_at": written, "expires_at": written}, DESTINATIONS)

    assert (event.occurred_at, event.expires_at) == (meant, meant)


# What is none.


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"redirect please", "should be JSON"),
        (b"\xff\xfe\x00", "should be JSON"),
        ("", "should be JSON"),
        (b"[" * 60_000, "nested too deeply"),
        ('{"a":' * 13_000, "nested too deeply"),
        ('{"order": ' + "1" * 5000 + "}", "should be JSON"),
        (VALID | {"extra": nested(DEPTH)}, "nested too deeply"),
        (VALID | {"extra": {1, 2}}, "should be JSON"),
        (VALID | {"extra": 10**5000}, "should be JSON"),
        (b"[]", "should be a JSON object, not an array"),
        ([VALID], "should be a JSON object, not an array"),
        ("5", "should be a JSON object, not a number"),
        (1.5, "should be a JSON object, not a number"),
        (True, "should be a JSON object, not a boolean"),
        ('"text"', "should be a JSON object, not a string"),
        (None, "should be a JSON object, not null"),
        (object(), "should be a JSON object, not object"),
    ],
    ids=lambda value: repr(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_json_object_is_malformed(raw: object, says: str) -> None:
    """The refusal names what came, and that an object should have come."""
    refused = refusal(raw)

    assert refused.code == "malformed"
    assert says in refused.error


@pytest.mark.parametrize("field", ["event_id", "conversation_id", "destination"])
@pytest.mark.parametrize("wrong", ["missing", None, 7, True, ["x"], {}], ids=repr)
def test_the_three_fields_are_required_and_are_text(field: str, wrong: object) -> None:
    """A field that is missing or no text is named; a number is not quietly made text."""
    raw: dict[str, object] = {**VALID, field: wrong}
    if wrong == "missing":
        del raw[field]

    refused = refusal(raw)

    assert refused.code == "malformed"
    assert refused.error == f"{field}: " + ("Field required" if wrong == "missing" else "should be a valid string")


def test_every_wrong_field_is_named_at_once() -> None:
    """A producer mends all of its mistakes in one round."""
    refused = refusal({"event_id": 5, "destination": "billing", "owner_id": 7})

    assert [problem.split(":")[0] for problem in refused.error.split("; ")] == [
        "event_id",
        "conversation_id",
        "owner_id",
    ]


@pytest.mark.parametrize(("field", "longest"), [("event_id", 200), ("conversation_id", 64), ("owner_id", 200)], ids=str)
def test_ids_have_a_length(field: str, longest: int) -> None:
    """The longest id is read, in any script; an empty one or one more character is refused with the limit."""
    parse(VALID | {field: "م" * longest}, DESTINATIONS)

    assert refusal(VALID | {field: ""}).error.startswith(f"{field}: ")
    assert str(longest) in refusal(VALID | {field: "م" * (longest + 1)}).error


@pytest.mark.parametrize("form", ["dict", "str", "bytes"])
@pytest.mark.parametrize("letter", ["x", "م"], ids=["ascii", "persian"])
def test_an_event_is_at_most_64_kib_of_utf_8(form: str, letter: str) -> None:
    """The limit counts bytes, not characters, and the same for each way in; the last byte within it is welcome."""
    space = MAX_BYTES - len(encode(VALID | {"reason": ""}))

    def event(size: int) -> object:
        reason = letter * (size // len(letter.encode())) + "x" * (size % len(letter.encode()))
        written = json.dumps(VALID | {"reason": reason}, ensure_ascii=False)
        return {"dict": json.loads(written), "str": written, "bytes": written.encode()}[form]

    assert parse(event(space), DESTINATIONS).reason
    refused = refusal(event(space + 1))
    assert (refused.code, refused.error) == (
        "too_large",
        f"an event should be at most 65536 bytes of JSON, not {MAX_BYTES + 1}",
    )


@pytest.mark.parametrize("sick", ["a\x00b", "a\ud800b", "\udfff"], ids=["NUL", "surrogate", "low surrogate"])
@pytest.mark.parametrize(
    "field", ["event_id", "conversation_id", "destination", "owner_id", "source", "reason", "actor.id", "key", "value"]
)
def test_text_that_no_store_can_hold_is_malformed(field: str, sick: str) -> None:
    """NUL and lone surrogates are refused wherever text may stand, decoded or escaped."""
    places: dict[str, dict[str, object]] = {
        "actor.id": {"actor": {"type": "user", "id": sick}},
        "key": {"metadata": {sick: 1}},
        "value": {"metadata": {"a": sick}},
    }
    raw = VALID | places.get(field, {field: sick})

    for refused in (refusal(raw), refusal(json.dumps(raw))):
        assert refused.code == "malformed"
        assert "should not contain" in refused.error


@pytest.mark.parametrize("written", ["mars", "AI", " ai", "", PERSIAN])
def test_an_unknown_destination_is_refused_with_the_known_ones(written: str) -> None:
    """The refusal lists what would be right."""
    refused = refusal(VALID | {"destination": written})

    assert refused.code == "unknown_destination"
    assert refused.error.endswith("should be one of: ai, support, sales, technical, billing, general")


@pytest.mark.parametrize("field", ["occurred_at", "expires_at"])
@pytest.mark.parametrize(
    ("written", "says"),
    [
        *[
            (wrong, "should be an RFC 3339 date and time with an offset, such as 2026-11-22T10:00:00.120Z")
            for wrong in ("2026-11-22T10:00:00", "2026-11-22", "", "now", "٢٠٢٦-11-22T10:00:00Z", 1_795_341_600, 1.5)
        ],
        (True, "should be an RFC 3339"),
        ({}, "should be an RFC 3339"),
        ("2026-11-22T10:00:00+24:00", "offset"),
        ("2026-13-22T10:00:00Z", "month must be in 1..12"),
        ("2026-11-22T24:00:00Z", "hour must be in 0..23"),
        ("0000-01-01T00:00:00Z", "year 0"),
        ("0001-01-01T00:00:00+01:00", "should lie between the years 1 and 9999 in UTC"),
        ("9999-12-31T23:59:59-01:00", "should lie between the years 1 and 9999 in UTC"),
    ],
)
def test_a_time_that_orders_nothing_is_malformed(field: str, written: object, says: str) -> None:
    """A local time, a number, a date alone, or a moment that no calendar has."""
    refused = refusal(VALID | {field: written})

    assert refused.code == "malformed"
    assert refused.error.startswith(f"{field}: ")
    assert says in refused.error


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"a": [1]}, "metadata.a: should be text, a finite number, a boolean or null"),
        ({"a": {"b": 1}}, "metadata.a: should be text, a finite number, a boolean or null"),
        ({"a": math.nan}, "a finite number"),
        ({"a": math.inf}, "a finite number"),
        ({"a": -math.inf}, "a finite number"),
        ({"a": "x" * 4096}, "metadata: should be at most 4 KiB of JSON"),
        ({"a": "م" * 2048}, "metadata: should be at most 4 KiB of JSON"),
        ({1: "a"}, "metadata.1: should be a valid string"),
        ([], "metadata: should be a valid dictionary"),
        ("text", "metadata: should be a valid dictionary"),
    ],
    ids=lambda value: repr(value)[:25],
)
def test_metadata_is_flat_small_and_finite(metadata: object, says: str) -> None:
    """Scalars only, at most 4 KiB of UTF-8, and nothing that JSON cannot write."""
    refused = refusal(VALID | {"metadata": metadata})

    assert refused.code == "malformed"
    assert says in refused.error


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**300, 1e308, 5e-324])
def test_metadata_holds_any_finite_number(number: float) -> None:
    """An integer beyond 64 bits is a number like any other."""
    event = parse(VALID | {"metadata": {"order": number}}, DESTINATIONS)

    assert event.metadata == {"order": number}


@pytest.mark.parametrize("actor", [{"type": "robot"}, {"type": None}, {"id": "42"}, "workflow", {"type": "\ud800"}])
def test_an_actor_is_of_a_known_type(actor: object) -> None:
    """The refusal is about the actor."""
    refused = refusal(VALID | {"actor": actor})

    assert refused.code == "malformed"
    assert refused.error.startswith("actor")


def test_an_unknown_actor_type_is_refused_with_the_known_ones() -> None:
    """The refusal lists what would be right."""
    assert "'workflow', 'user', 'system' or 'policy'" in refusal(VALID | {"actor": {"type": "robot"}}).error
