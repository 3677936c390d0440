"""Invariant 6 at the event: whatever it holds it has a clear outcome, and its neighbours are applied."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from tests.eventually import eventually
from tests.poison import GONE, changed, deep, event, readable
from tests.service import Service

MEBIBYTE = 1024 * 1024
_numbers = count(1)


@dataclass(frozen=True)
class Bad:
    """An argument of redirect_conversation. `code` and part of the error it is refused with; None: it is applied."""

    arg: Any
    code: str | None = None
    says: str = ""

    @property
    def kept(self) -> str:
        """What its row in rejected_events must hold."""
        return (
            readable(self.arg.encode("utf-8", "surrogatepass")) if isinstance(self.arg, str) else json.dumps(self.arg)
        )


def one(**fields: Any) -> dict[str, Any]:
    """A healthy event with these fields changed; GONE takes one out."""
    return changed(event(f"event {next(_numbers)}"), **fields)


def refused(says: str, code: str = "malformed", **fields: Any) -> Bad:
    return Bad(one(**fields), code, says)


def cases() -> Iterator[Bad]:
    yield from _no_objects()
    yield from _wrong_fields()
    yield from _wrong_text()
    yield from _wrong_times()
    yield from _wrong_numbers_and_sizes()
    yield from _strange_and_welcome()


def _no_objects() -> Iterator[Bad]:
    for arg in (5, None, True, 1.5, [], [one(), one()]):
        yield Bad(arg, "malformed", "an event should be a JSON object, not ")
    for text in ("5", "[]", "null", '"text"'):
        yield Bad(text, "malformed", "an event should be a JSON object, not ")
    for text in ("", "not JSON", '{"event_id": ', "\ufeff{}", "{'event_id': 'x'}", "\x00", "\ud800"):
        yield Bad(text, "malformed", "should be JSON")
    nested = json.dumps(one()).replace('"billing"', f'"billing", "metadata": {"[" * 5000}{"]" * 5000}')
    yield Bad(nested, "malformed", "nested too deeply")
    yield Bad("[" * 100_000, "too_large", "should be at most 65536 bytes")
    yield Bad({}, "malformed", "event_id: Field required; conversation_id: Field required; destination: Field required")


def _wrong_fields() -> Iterator[Bad]:
    values: list[Any] = [GONE, None, 5, [], {}, True]
    for field in ("event_id", "conversation_id", "destination"):
        for value in values:
            yield refused(f"{field}: ", **{field: value})
    yield refused("at least 1", event_id="")
    yield refused("at least 1", conversation_id="")
    yield refused("at most 64", conversation_id="x" * 65)
    yield refused("at most 200", event_id="x" * 201)
    for destination in ("nowhere", "", "Billing", "ai "):
        yield refused("should be one of: ai, support", "unknown_destination", destination=destination)
    others: list[tuple[str, Any]] = [("actor", "me"), ("actor", {"type": "ghost"}), ("owner_id", 7), ("source", [])]
    for field, value in (*others, ("reason", {})):
        yield refused(field, **{field: value})
    flat: list[Any] = [[], "x", 5, {"a": {"b": 1}}, {"a": [1]}, {"a": deep(150)}]
    for metadata in flat:
        yield refused("metadata", metadata=metadata)


def _wrong_text() -> Iterator[Bad]:
    for field in ("event_id", "conversation_id", "destination", "owner_id", "source", "reason"):
        yield refused("should not contain the character NUL", **{field: "a\x00b"})
        yield refused("should not contain lone surrogates", **{field: "a\ud800b"})
    for text in ("a\x00b", "a\udfffb"):
        yield refused("should not contain", metadata={text: 1})
        yield refused("should not contain", metadata={"a": text})
        yield refused("should not contain", actor={"type": "user", "id": text})


def _wrong_times() -> Iterator[Bad]:
    values: list[Any] = ["0000-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-11-22T10:00:00", "now", 5, {}, ""]
    for time in (*values, "٢٠٢٦-11-22T10:00:00Z"):
        yield refused("occurred_at: ", occurred_at=time)
    yield refused("between the years 1 and 9999", occurred_at="9999-12-31T23:59:59-14:00")
    yield refused("occurred_at should be at most", "clock_skew", occurred_at="9999-12-31T23:59:59Z")
    yield refused("expires_at should be after", "expired", expires_at="2020-01-01T00:00:00Z")


def _wrong_numbers_and_sizes() -> Iterator[Bad]:
    for number in (float("nan"), float("inf"), float("-inf")):
        yield refused("metadata", metadata={"number": number})
    in_words = json.dumps(one(metadata={"number": 1}))
    yield Bad(in_words.replace(": 1}", ": 1e999}"), "malformed", "finite")
    yield Bad(in_words.replace(": 1}", f": {'1' * 5000}}}"), "malformed", "should be JSON")
    yield refused("should be at most 65536 bytes", "too_large", reason="x" * 10 * MEBIBYTE)
    yield refused("should be at most 65536 bytes", "too_large", unknown=["x"] * 100_000)
    yield refused("should be at most 65536 bytes", "too_large", reason="ی" * 33_000)
    yield refused("metadata: should be at most 4 KiB", metadata={"text": "ی" * 2100})


def _strange_and_welcome() -> Iterator[Bad]:
    for text in STRANGE:
        yield Bad(
            one(event_id=text, conversation_id=text, owner_id=text, source=text, reason=text, metadata={text: text})
        )
    yield Bad(one(metadata={"large": 2**63, "larger": 10**300, "negative": -(2**64), "small": 5e-324}))
    yield Bad(one(unknown=deep(150), __proto__={"destination": "ai"}))
    yield Bad(one(occurred_at="0001-01-01T00:00:00Z"))
    yield Bad(one(occurred_at="2020-02-29T23:59:59.5+05:30"))
    yield Bad(json.dumps(one()))
    yield Bad(json.dumps(one(reason="سلام"), ensure_ascii=False))


STRANGE = [
    "𝒳" * 64,  # outside the basic plane: two units in UTF-16, four bytes in UTF-8
    "مرحبا \u202eبالعالم\u202c 👩‍👩‍👧‍👦",
    "'; DROP TABLE redirects; --",
    '"]]); redis.call("FLUSHALL") --',
    "KEYS[1] {tag} }{",
    "*?[a-z]\\*",
    "%s %(x)s {0} ${HOME} $1 :name %",
    "line\r\nbreak\n\ttab",
    "\x1b[31mred\x1b[0m \x7f\x08",
    "../../etc/passwd",
    " ",
    "-",
    "null",
    "\u2028\ufeff\u200b",
]


def processes(service: Service) -> tuple[int, list[int]]:
    """The pid of the worker, and those of its children."""
    (stats,) = eventually(lambda: service.producer.control.inspect(timeout=5, limit=1).stats() or {}).values()
    return stats["pid"], sorted(stats["pool"]["processes"])


@pytest.fixture(scope="module")
def sent(running: Service) -> list[Bad]:
    """All of it, each between two healthy neighbours; and when they are through, the worker is as it was."""
    before, bad = processes(running), list(cases())
    for number, item in enumerate(bad):
        running.send(event(f"before {number}"), item.arg, event(f"after {number}"))
    running.send()
    running.send(event("last"))
    eventually(lambda: running.state("last"), within=60)
    eventually(lambda: not running.broker.exists("unacked", "redirects"), within=60)
    assert processes(running) == before
    return bad


def test_invariant_6_what_cannot_be_applied_is_kept_whole(running: Service, sent: list[Bad]) -> None:
    """One row each with a code of the contract, an error for a person, and every character of the event."""
    rows = {_canonical(row["body"]): row for row in running.rejected()}
    wrong = {}
    for bad in sent:
        row = rows.get(_canonical(bad.kept))
        if bad.code is not None and (row is None or row["code"] != bad.code or bad.says not in row["error"]):
            wrong[str(bad.arg)[:300]] = (bad.code, bad.says, row and (row["code"], row["error"]))

    assert wrong == {}
    # 5 and "5" are one and the same in a row.
    assert rows.keys() == {_canonical(bad.kept) for bad in sent if bad.code is not None}
    assert {row["source"] for row in rows.values()} == {"redirect_conversation"}
    assert max(len(row["error"]) for row in rows.values()) < 500


def _canonical(body: str) -> str:
    """JSON in one spelling, for a comparison; anything else as it is."""
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except (ValueError, RecursionError):
        return body


def test_invariant_6_neighbours_are_applied(running: Service, sent: list[Bad]) -> None:
    """Each event before and after a bad one in the same call, and what only looked bad."""
    welcome = [json.loads(bad.arg) if isinstance(bad.arg, str) else bad.arg for bad in sent if bad.code is None]
    names = [f"{where} {number}" for where in ("before", "after") for number in range(len(sent))]
    expected = {*names, "last", *(fields["event_id"] for fields in welcome)}

    applied = {row["event_id"] for row in running.redirects() if row["outcome"] == "applied"}

    assert applied == expected
    eventually(running.agrees, within=30)


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
def test_strange_ids_reach_every_copy_as_they_are(running: Service, sent: list[Bad], text: str) -> None:
    """State, record, cache key and live channel carry the id untouched, and nothing else is hit."""
    state, record = running.state(text), running.record(text)
    assert state and record and (state["owner_id"], record["owner_id"]) == (text, text)
    with running.cache.pubsub() as live:  # type: ignore[no-untyped-call]
        live.subscribe(f"conversations.{text}", "conversations.-x-")
        for _ in range(2):
            live.get_message(timeout=5)
        running.send(event(f"again {text}", conversation_id=text, owner_id=text, destination="sales"))
        frame = eventually(lambda: live.get_message(timeout=1))
    assert frame["channel"] == f"conversations.{text}"
    assert json.loads(frame["data"])["conversation_id"] == text
    eventually(lambda: (running.cached(text) or {})["destination"] == "sales")


def test_an_event_as_keywords(running: Service) -> None:
    """`send_task("redirect_conversation", kwargs=event)` is one event."""
    running.producer.send_task("redirect_conversation", kwargs=event("as keywords"), queue="redirects")
    eventually(lambda: running.cached("as keywords"))


@pytest.mark.slow
def test_10_000_events_in_one_call(running: Service) -> None:
    """All are recorded, and all copies agree."""
    running.send(*[event(f"bulk {number}", conversation_id=f"bulk {number % 100}") for number in range(10_000)])
    bulk = "SELECT count(*) AS recorded FROM redirects WHERE event_id LIKE 'bulk %'"
    eventually(lambda: running.rows(bulk) == [{"recorded": 10_000}], within=60)
    eventually(running.agrees, within=30)
