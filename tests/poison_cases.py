"""What Celery 5.7 and kombu 5.7 die of, loop on or lose in silence without the guard, and what strangers may push."""

import bz2
import json
import pickle
import zlib
from collections.abc import Iterator
from typing import Any

from tests.poison import EMBED, GONE, Case, body, changed, deep, deepened, envelope, event, headers, message, properties

MEGABYTE = 1_000_000
LONG_AGO = "2020-01-01T00:00:00+00:00"
FIRST = "0001-01-01T00:00:00+14:00"
LAST = "9999-12-31T23:59:59-14:00"


def cases() -> Iterator[Case]:
    yield from _bodies()
    yield from _depths_and_sizes()
    yield from _names_and_ids()
    yield from _times()
    yield from _counts()
    yield from _types_and_encodings()
    yield from _compressions()
    yield from _canvas()
    yield from _protocol_1()
    yield from _headers_without_a_meaning()
    yield from _routing()
    yield from _raw_items()
    yield from _broken_envelopes()
    yield from _doorbells()


def with_body(name: str, content: bytes, says: str | None, **changes: Any) -> Case:
    return Case(name, envelope(headers(name), content, **changes), says)


def with_header(field: str, value: Any, says: str | None = None) -> Case:
    name = f"{field} {value!r}"[:80] if value is not GONE else f"no {field}"
    return Case(name, message(name, **{field: value}), says)


def _bodies() -> Iterator[Case]:
    for content in ("[1,2]", "5", '"text"', "null", '{"a": 1}', "[[], {}]", "[]", "[[], {}, {}, {}]", ""):
        yield with_body(f"body {content}", content.encode(), "the body should be [args, kwargs, embed]")
    yield with_body("args an object", b"[{}, [], {}]", "args should be an array")
    yield with_body("args a number", b"[5, {}, {}]", "args should be an array")
    yield with_body("kwargs null", b"[[], null, {}]", "kwargs should be an object")
    yield with_body("a number of 5,000 digits", b"[[" + b"1" * 5000 + b"], {}, {}]", "the body should be JSON")
    # kombu makes uuids, dates and bytes of such objects, and raises what their constructors raise.
    tagged = b'[[{"__type__": "uuid", "__value__": "no uuid"}], {}, {}]'
    yield with_body("a tagged value that is none", tagged, "the body should be JSON")


def _depths_and_sizes() -> Iterator[Case]:
    # Around 950 levels json.loads still reads what pickle cannot write any more.
    for levels in (300, 900, 940, 960, 985, 100_000):
        nested = b"[[" + b"[" * levels + b"]" * levels + b"], {}, {}]"
        yield with_body(f"{levels} levels deep", nested, "the body should be")
    yield with_body("20 MB", json.dumps("x" * 20 * MEGABYTE).encode(), "the body should be at most")


def _names_and_ids() -> Iterator[Case]:
    values: list[Any] = [["redirect_conversation"], 5, "", None, {}]
    for task in values:
        yield with_header("task", task, "task should be text")
    # Celery's own tasks would run others behind the gate's back, or wait for ever.
    for name in ("delete_everything", "celery.map", "celery.chord_unlock", "redirect_conversation "):
        yield with_header("task", name, "there is no task named")
    values = [GONE, None, 5, "", ["x"], "x" * 100_000]
    for id_ in values:
        yield with_header("id", id_, "id should be")
    for number in range(2):
        name = f"a reused id, {number}"
        yield Case(name, message(name, id="reused"))


def _times() -> Iterator[Case]:
    values: list[Any] = ["garbage", "9999-12-31T23:59:59+00:00", 5, "0000-01-01T00:00:00", {}, ""]
    for eta in values:
        yield with_header("eta", eta, "eta should be")
    for eta in (LONG_AGO, FIRST, "1970-01-01T00:00:00"):
        yield with_header("eta", eta)
    yield with_header("expires", "garbage", "expires should be an ISO 8601 time")
    yield with_header("expires", LAST)
    for expires in (LONG_AGO, FIRST):
        name = f"expired {expires}"
        two = [event(f"{name} {number}") for number in range(2)]
        item = envelope(headers(name, expires=expires), body(*two))
        yield Case(name, item, "expired at", code="expired", events=two)


def _counts() -> Iterator[Case]:
    limits: list[Any] = ["x", [1], ["a", "b"], [-1, None], [0, 0], 5, {}]
    for limit in limits:
        yield with_header("timelimit", limit, "timelimit should be")
    # A limit of the producer's that no run can keep: killed, put back, killed, for ever.
    yield with_header("timelimit", [0.001, 0.001])
    counts: list[Any] = ["x", -1, 10**6, 10**400, 1.5, []]
    for count in counts:
        yield with_header("retries", count, "retries should be")


def _types_and_encodings() -> Iterator[Case]:
    kinds: list[Any] = ["application/x-yaml", "application/x-unknown", 5, ["application/json"]]
    for kind in kinds:
        yield with_body(f"content type {kind}", body(), "the body should be JSON", content_type=kind)
    pickled = pickle.dumps([[], {}, {}])
    yield with_body("pickle", pickled, "the body should be JSON", content_type="application/x-python-serialize")
    yield with_body("no content type", body(), "the body should be", content_type=None)
    yield with_body("content encoding 5", body(), "the body should be JSON", content_encoding=5)
    name = "content encoding klingon"
    yield with_body(name, body(event(name)), None, content_encoding="klingon")
    yield with_body("not UTF-8", b'[["\xff\xfe"], {}, {}]', "the body should be JSON")
    yield with_body("UTF-16", body().decode().encode("utf-16"), "the body should be JSON")
    yield with_body("binary", b"\x00\x01\x02\xff", "the body should be JSON")


def _compressions() -> Iterator[Case]:
    methods: list[Any] = ["bogus", ["gzip"], "application/x-lzma", "gzip"]
    for method in methods:
        yield with_header("compression", method, "the body should be JSON")
    name = "compressed"
    yield Case(name, envelope(headers(name, compression="bzip2"), bz2.compress(body(event(name)))))
    bomb = zlib.compress(b" " * 20 * MEGABYTE)
    yield Case("a bomb", envelope(headers("a bomb", compression="gzip"), bomb), "at most")


def _canvas() -> Iterator[Case]:
    for part in EMBED:
        content = json.dumps([[event(part)], {}, EMBED | {part: [{"task": "redirect_conversation"}]}])
        yield with_body(f"embedded {part}", content.encode(), f"{part} should be empty")
        yield with_header(part, [{"task": "redirect_conversation"}])
    # Merged into the request: with fewer than no retries a killer would be tried for ever.
    embeds: list[Any] = [{"retries": -1000}, {"get": 5}, {"args": 5}, [], 5, "x"]
    for embed in embeds:
        yield with_body(f"embed {embed!r}", json.dumps([[], {}, embed]).encode(), "embed")


def _protocol_1() -> Iterator[Case]:
    def first(name: str, says: str | None = None, beside: Any = (), **changes: Any) -> Case:
        name = f"protocol 1, {name}"
        fields = {"task": "redirect_conversation", "id": name, "args": [event(name)], "kwargs": {}, "utc": True}
        content = json.dumps(changed(fields, **changes)).encode()
        return Case(name, envelope({} if beside == () else beside, content), says)

    yield first("plain")
    yield first("without headers", beside=GONE)
    yield first("beside bad headers", beside={"id": 5, "retries": "x", "timelimit": "x", "eta": "x", "get": 5})
    yield first("all of it", retries=0, eta=None, expires=None, timelimit=[None, None], taskset=None, callbacks=None)
    yield first("fields", args=[], kwargs=event("protocol 1, fields"))
    yield first("no id", "id should be text", id=GONE)
    yield first("task a number", "task should be text", task=5)
    yield first("args a number", "args should be an array", args=5)
    yield first("kwargs an array", "kwargs should be an object", kwargs=[])
    yield first("callbacks", "callbacks should be empty", callbacks=[{"task": "x"}])
    yield first("below headers of 2", "the body should be [args, kwargs, embed]", beside=headers("1 in 2"))


def _headers_without_a_meaning() -> Iterator[Case]:
    values: list[Any] = [5, ["x"], {"x": ["y"]}, "x"]
    for field in ("ignore_result", "replaced_task_nesting", "stamps", "stamped_headers", "origin", "root_id", "shadow"):
        for value in values:
            yield with_header(field, value)
    for field in ("group", "group_index", "parent_id", "argsrepr", "kwargsrepr", "lang", "reply_to", "correlation_id"):
        yield with_header(field, [{}])
    # Celery's request is one dictionary of headers: these would replace its methods and what it is made of.
    for field in ("get", "update", "children", "_children", "as_execution_options", "properties", "args", "hostname"):
        yield with_header(field, "x")
    yield with_header("argsrepr", "x" * MEGABYTE)
    yield with_header("headers", {"sentry-trace": "0-0", "baggage": [1]})


def _routing() -> Iterator[Case]:
    def routed(name: str, **changes: Any) -> Case:
        return with_body(name, body(event(name)), None, properties=properties(**changes))

    yield routed("delivery_info is empty", delivery_info={})
    yield routed("an exchange that is not there", delivery_info={"exchange": "x", "routing_key": "y"})
    yield routed("delivery_info of other types", delivery_info={"exchange": 5, "routing_key": ["x"], "redelivered": {}})
    for number in range(2):
        yield routed(f"a delivery_tag twice, {number}", delivery_tag="twice")
    priorities: list[Any] = ["x", "9", [], 5, -1, 10**30, float("inf"), float("nan")]
    for priority in priorities:
        yield routed(f"priority {priority}", priority=priority)
    yield routed("properties of other types", correlation_id=["x"], reply_to={"x": 5}, unknown=deep(100))
    name = "a body in plain text"
    yield with_body(name, b"", None, body=body(event(name)).decode(), properties=properties(body_encoding=GONE))


def _raw_items() -> Iterator[Case]:
    yield Case("raw: an event", json.dumps(event("raw event")).encode(), "it should have properties")
    for item in (b"redirect please", b"\x00\x01\xff", b"[" * 100_000, b"1" * 5000, json.dumps({}).encode("utf-16")):
        yield Case(f"raw: {item[:9]!r}", item, "it should be JSON")
    for item in (b"5", b'"text"', b"null", b"[1, 2]", b"NaN"):
        yield Case(f"raw: {item!r}", item, "it should be a JSON object")
    yield Case("raw: a tagged value", b'{"__type__": "datetime", "__value__": "x"}', "it should be JSON")
    yield Case("raw: {}", b"{}", "it should have properties")
    yield Case("raw: 34 MB", b"x" * 34 * MEGABYTE, "it should be at most")


def _broken_envelopes() -> Iterator[Case]:
    changes: list[tuple[str, Any, str]] = [
        ("headers", None, "headers"),
        ("headers", ["x"], "headers"),
        ("headers", {"x": "DEEP 500"}, "nested"),
        ("headers", {"x": "DEEP 975"}, "it should be"),
        ("properties", GONE, "properties"),
        ("properties", [], "properties"),
        ("properties", properties(delivery_info=GONE), "delivery_info"),
        ("properties", properties(delivery_tag=GONE), "delivery_tag"),
        ("properties", properties(body_encoding="rot13"), "body_encoding"),
        ("properties", properties(body_encoding=5), "body_encoding"),
        ("body", GONE, "body"),
        ("body", 5, "body"),
        ("body", "not base64!", "base64"),
        ("body", "YQ", "base64"),
        ("body", "\ud800", "base64"),
    ]
    healthy = json.loads(message("raw"))
    for number, (field, value, says) in enumerate(changes):
        item = json.dumps(changed(healthy, **{field: value})).encode()
        yield Case(f"raw: {field}, {number}", deepened(item), says)


def _doorbells() -> Iterator[Case]:
    for queue, task in (("effects.cache", "update_cache"), ("maintenance", "retry_side_effects")):
        for what, content, says in (
            ("three arguments", body(1, 2, 3), "positional argument"),
            ("a keyword", body(x=1), "unexpected keyword"),
            ("a body of numbers", b"[1,2]", "the body should be"),
        ):
            name = f"{task} with {what}"
            yield Case(name, envelope(headers(name, task=task), content), says, queue)
        yield Case(f"raw: {queue}", f"garbage for {queue}".encode(), "it should be JSON", queue)
        name = f"a redirect through {queue}"
        yield Case(name, message(name), None, queue)
