"""What a message holds: every shape that the contract allows becomes events, and everything else a reason."""

import json
from typing import Any

import pytest

from worker.events import MAX_BYTES
from worker.messages import LARGEST_BODY, MOST_EVENTS, Unpacked, unpack

EVENT = {"event_id": "e1", "conversation_id": "گفتگو", "destination": "billing"}
TEXT = json.dumps(EVENT, ensure_ascii=False)
SPACED = json.dumps(EVENT | {"unknown": [1.50, None]}, ensure_ascii=False, indent=3)
CLOUD = {"specversion": "1.0", "id": "e1", "type": "workflow.redirect", "source": "workflow/42", "subject": "گفتگو"}
FROM_CLOUD = EVENT | {"source": "workflow/42"}


def only_event(unpacked: Unpacked) -> Any:
    assert unpacked.refused == []
    assert len(unpacked.events) == 1
    return json.loads(unpacked.events[0])


def why(body: bytes | str, content_type: str | None = None, headers: dict[str, Any] | None = None) -> tuple[str, str]:
    """The code and the words with which the one thing in the message is refused."""
    unpacked = unpack(body, content_type, headers)
    assert unpacked.events == []
    ((_, refusal),) = unpacked.refused
    return refusal.code, refusal.error


# One event.


@pytest.mark.parametrize("body", [SPACED, SPACED.encode()], ids=["str", "bytes"])
def test_an_event_stays_as_it_was_written(body: bytes | str) -> None:
    """Not a character changes, unknown fields and odd spaces included."""
    assert unpack(body).events == [SPACED]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
def test_json_in_another_encoding_is_read(encoding: str) -> None:
    """RFC 4627 let producers choose, and some programs begin with a byte order mark."""
    assert only_event(unpack(TEXT.encode(encoding))) == EVENT


def test_half_a_character_is_passed_on_as_an_escape() -> None:
    """Whoever validates it says what is wrong; until then it must fit into any text."""
    for body in ('{"reason": "\ud800"}', b'{"reason": "\xed\xa0\x80"}'):
        assert unpack(body).events == ['{"reason":"\\ud800"}']


@pytest.mark.parametrize("letter", ["x", "م"])
@pytest.mark.parametrize("shape", ["alone", "str", "array", "cloud"])
def test_an_event_has_at_most_64_kib_of_utf_8(letter: str, shape: str) -> None:
    """Bytes, not characters; and the last byte within the limit is welcome in any company."""

    def body(size: int) -> bytes | str:
        event = FROM_CLOUD | {"reason": ""}
        space = size - len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())
        event["reason"] = letter * (space // len(letter.encode())) + "x" * (space % len(letter.encode()))
        written = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        cloud = CLOUD | {"data": {"destination": "billing", "reason": event["reason"]}}
        cloudevent = json.dumps(cloud)
        shapes: dict[str, bytes | str] = {
            "str": written,
            "alone": written.encode(),
            "array": f"[{written}]",
            "cloud": cloudevent,
        }
        return shapes[shape]

    assert len(unpack(body(MAX_BYTES)).events) == 1
    assert why(body(MAX_BYTES + 1)) == (
        "too_large",
        f"an event should be at most 65536 bytes of JSON, not {MAX_BYTES + 1}",
    )


# Arrays.


def test_a_bad_item_is_refused_alone_and_its_position_is_known() -> None:
    """The others of the array are events, in order."""
    unpacked = unpack(json.dumps([5, EVENT, [EVENT], EVENT | {"n": 2}, None]))
    assert [json.loads(event) for event in unpacked.events] == [EVENT, EVENT | {"n": 2}]
    assert unpacked.events_at == [1, 3]
    assert (unpacked.refused_at, [raw for raw, _ in unpacked.refused]) == ([0, 2, 4], [5, [EVENT], None])


def test_an_array_has_its_limits() -> None:
    """At least one, and not more than can be kept one by one; beyond that it is refused whole."""
    assert len(unpack("[" + ",".join(["{}"] * MOST_EVENTS) + "]").events) == MOST_EVENTS
    assert why("[" + ",".join(["1"] * (MOST_EVENTS + 1)) + "]")[0] == "too_large"
    assert why("[]") == ("malformed", "an array should hold at least one event")


# What is nothing.


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", "malformed", "should be JSON"),
        ("", "malformed", "should be JSON"),
        (b"\x00", "malformed", "should be JSON"),
        (b'{"reason": "\x00"}', "malformed", "should be JSON"),
        (b"\xff\xfe", "malformed", "should be JSON"),
        (b"redirect please", "malformed", "should be JSON"),
        (b"[" * 10_000 + b"]" * 10_000, "malformed", "nested too deeply"),
        (b'{"n": ' + b"1" * 5000 + b"}", "malformed", "should be JSON"),
        (b"5", "malformed", "should be a JSON object"),
        (b"NaN", "malformed", "should be a JSON object"),
        (b"1e999", "malformed", "should be a JSON object"),
        (b"null", "malformed", "should be a JSON object"),
        (b'{"reason": "' + b"x" * 10_000_000 + b'"}', "too_large", "at most 65536 bytes"),
        (b" " * (LARGEST_BODY + 1), "too_large", "at most 16777216 bytes"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_no_event_is_refused_whole(body: bytes | str, code: str, says: str) -> None:
    """With its code, and with what would be right."""
    ((raw, refusal),) = unpack(body).refused
    assert (raw, refusal.code) == (body, code)
    assert says in refusal.error
