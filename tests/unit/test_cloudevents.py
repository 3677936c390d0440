"""CloudEvents 1.0 in every mode become the same event as if it had been sent plainly."""

import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.test_messages import EVENT, only_event, why
from worker.messages import unpack

CLOUD = {"specversion": "1.0", "id": "e1", "type": "workflow.redirect", "source": "workflow/42", "subject": "گفتگو"}
DATA = {"destination": "billing"}
FROM_CLOUD = EVENT | {"source": "workflow/42"}
AMQP = {"cloudEvents:" + name: value for name, value in CLOUD.items()}


def test_structured_mode() -> None:
    """The attributes become the fields of the event, and data the rest."""
    body = json.dumps(CLOUD | {"time": "2026-11-22T10:00:00Z", "data": DATA | {"owner_id": "7"}})
    expected = FROM_CLOUD | {"owner_id": "7", "occurred_at": "2026-11-22T10:00:00Z"}
    for content_type in (None, "application/json", "Application/CloudEvents+JSON; charset=utf-8"):
        assert only_event(unpack(body, content_type)) == expected


def test_batch_mode() -> None:
    """An array of CloudEvents; with this content type a plain event in it is refused."""
    body = json.dumps([CLOUD | {"data": DATA}, EVENT])
    unpacked = unpack(body, "application/cloudevents-batch+json")
    assert [json.loads(event) for event in unpacked.events] == [FROM_CLOUD]
    assert unpacked.refused[0][1].error == "specversion should be 1.0"


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-", "CE-"])
def test_binary_mode(prefix: str) -> None:
    """The attributes are properties of the message, and data is its body."""
    headers = {prefix + name: value for name, value in CLOUD.items()}
    assert only_event(unpack(json.dumps(DATA), "application/json", headers)) == FROM_CLOUD


def test_a_header_is_percent_encoded_and_a_property_is_not() -> None:
    """HTTP headers hold ASCII; an AMQP property holds any text, so a % there is a %."""
    over_http = {f"ce-{name}": value for name, value in CLOUD.items()} | {"ce-subject": "%DA%AF%25"}
    assert only_event(unpack(json.dumps(DATA), None, over_http))["conversation_id"] == "گ%"
    assert only_event(unpack(json.dumps(DATA), None, AMQP | {"cloudEvents:subject": "%25"}))["conversation_id"] == "%25"


@pytest.mark.parametrize("time", [datetime(2026, 11, 22, 10), datetime(2026, 11, 22, 10, tzinfo=UTC)])  # noqa: DTZ001
def test_a_timestamp_of_amqp_is_utc(time: datetime) -> None:
    """py-amqp hands out naive datetimes, which mean UTC."""
    event = only_event(unpack(json.dumps(DATA), None, AMQP | {"cloudEvents:time": time}))
    assert event["occurred_at"] == "2026-11-22T10:00:00+00:00"


def test_structured_mode_wins_over_headers() -> None:
    """The content type says which mode it is, as the bindings want it."""
    headers = {"ce-specversion": "1.0", "ce-id": "another"}
    body = json.dumps(CLOUD | {"data": DATA})
    assert only_event(unpack(body, "application/cloudevents+json", headers)) == FROM_CLOUD


def test_data_may_be_base64_or_json_as_a_string() -> None:
    """As some libraries write it."""
    for data in ({"data_base64": b64encode(json.dumps(DATA).encode()).decode()}, {"data": json.dumps(DATA)}):
        assert only_event(unpack(json.dumps(CLOUD | data))) == FROM_CLOUD


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"specversion": "0.3"}, "specversion should be 1.0"),
        ({"type": "workflow.other"}, "type should be workflow.redirect"),
        ({"data": [1]}, "data should be a JSON object with the rest of the event"),
        ({"data": 5}, "data should be a JSON object with the rest of the event"),
        ({"data": "{no JSON"}, "should be JSON: "),
        ({"data": '{"a":' * 10_000}, "should be JSON: nested too deeply"),
        ({"data_base64": "no base64!"}, "data_base64 should be base64"),
        ({"data_base64": {"a": 1}}, "data_base64 should be base64"),
        ({"data_base64": "////"}, "should be JSON: "),
    ],
)
def test_a_cloudevent_that_is_none_of_ours_is_refused(wrong: dict[str, Any], says: str) -> None:
    """With what would be right."""
    code, error = why(json.dumps(CLOUD | wrong))
    assert (code, error[: len(says)]) == ("malformed", says)


def test_what_came_in_binary_mode_is_refused_whole() -> None:
    """As a structured CloudEvent that can be sent again; data that is no JSON is in it as base64."""
    refused = unpack(b"\xff no JSON", None, AMQP).refused[0]
    assert (refused[0], refused[1].code) == (CLOUD | {"data_base64": b64encode(b"\xff no JSON").decode()}, "malformed")
    assert unpack(json.dumps([1]), None, AMQP).refused[0][0] == CLOUD | {"data": [1]}


def test_data_may_be_missing_when_nothing_more_is_needed() -> None:
    """Then the event is its attributes, and whoever validates it says what is missing."""
    expected = {name: value for name, value in FROM_CLOUD.items() if name != "destination"}
    assert only_event(unpack(b"", None, AMQP)) == expected == only_event(unpack(json.dumps(CLOUD)))
