"""Events and CloudEvents as bytes, hurt in a few places: values, names, spelling, encoding."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.poison import deepened, event
from tests.poison_fuzz import NUMBERS, STRINGS, anything, damaged, torn

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be", "latin-1", "utf-7", "cp1252"]
# What some decoder somewhere takes, and numbers that are too much for any.
ODD = ["NaN", "-Infinity", "1e999", "-0", "00", "0x1F", "1_000", "+1", ".5", "'x'", "undefined", "True", "9" * 5000]
ODD += ["1e-400", '"\\ud800"', '"\\u0000"', '"\\x41"', '"\ud83d"', '"\t"', "/* */ 1", "1e5", "1.0", "[,]", "{,}", ""]
SPACES = ["", "", "", " ", "\n", "\t\r ", "\u00a0", "\ufeff", "\x0c"]
TYPES = [
    None,
    "application/json",
    "application/json; charset=utf-16",
    "application/cloudevents+json",
    "text/plain",
    "\x00",
]
TYPES += [
    "text/plain",
    "application/cloudevents-batch+json",
    "APPLICATION/CLOUDEVENTS+JSON ; x",
    "application/cloudevents",
]
PREFIXES = ["cloudEvents:", "cloudEvents_", "ce-", "CE-", ""]
SCALARS: list[Any] = [None, False, 2**70, -(2**63), 1e300, 5e-324, -0.0, 0.1, 10**308]
TIMES = ["2026-11-22T10:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-02-30T00:00:00Z"]
TIMES += ["2026-11-22t10:00:00.123456789z", "2026-11-22 24:00:00Z", "2026-11-22T10:00:60Z", "1970-01-01T00:00:00+24:00"]


def healthy(random: Random, token: str) -> dict[str, Any]:
    """An event with the token in all of its fields."""
    more = {"source": token, "reason": token, "actor": {"type": "user", "id": token}, "metadata": {"token": token}}
    fields = event(token, **more)
    if random.random() < 0.3:
        fields["metadata"] |= {random.choice(STRINGS[:4]): random.choice([*NUMBERS, *SCALARS, *STRINGS[:6]])}
    if random.random() < 0.2:
        fields["occurred_at"] = random.choice(TIMES)
    return fields


def cloud(random: Random, token: str) -> dict[str, Any]:
    rest = healthy(random, token)
    named = {"id": rest.pop("event_id"), "subject": rest.pop("conversation_id"), "time": rest.pop("occurred_at", None)}
    data = {"data": rest} if random.random() < 0.8 else {"data_base64": random.choice(["", "e30=", "!", token])}
    return {"specversion": "1.0", "type": "workflow.redirect", "source": token} | named | data


def hurt(random: Random, fields: dict[str, Any]) -> dict[str, Any]:
    return damaged(random, fields, random.choice((0, 0, 0, 1, 2, 3)))


def value(random: Random, token: str) -> Any:
    """An event, a CloudEvent, or an array of some."""
    kind = random.randrange(10)
    if kind < 4:
        return hurt(random, healthy(random, token))
    if kind < 8:
        return hurt(random, cloud(random, token))
    some = [value(random, token) for _ in range(random.randrange(4))]
    return [*some, anything(random)] if kind == 9 else [*some, hurt(random, healthy(random, token))]


def spelled(random: Random, what: Any, errors: float = 0.005) -> str:
    """`what` as JSON, or nearly: of `errors` of the values only the place is left."""
    if random.random() < errors:
        return random.choice(ODD)
    space = random.choice(SPACES[:6]) if random.random() < 0.9 else random.choice(SPACES)
    if isinstance(what, dict):
        members = [f"{spelled(random, name, 0)}:{space}{spelled(random, one, errors)}" for name, one in what.items()]
        if members and random.random() < 5 * errors:  # a name twice
            name = random.choice(members).partition(":")[0]
            members.insert(random.randrange(len(members) + 1), f"{name}:{random.choice(ODD)}")
        return "{" + f",{space}".join(members) + "}"
    if isinstance(what, list):
        return "[" + f",{space}".join(spelled(random, one, errors) for one in what) + "]"
    try:
        return json.dumps(what, ensure_ascii=random.random() < 0.5)
    except (TypeError, ValueError):
        return "null"


def encoded(random: Random, text: str) -> bytes:
    """As one or the other encoding has it, most often UTF-8."""
    deep = deepened(text.encode("utf-8", "surrogatepass"))
    if random.random() < 0.9:
        return deep
    return deep.decode("utf-8", "surrogatepass").encode(random.choice(ENCODINGS), "replace")


def holding(token: str, make: Callable[[], bytes]) -> bytes:
    """The first that is made with the token still in it, so that it can be found again."""
    while token.encode() not in (raw := make()).replace(b"\x00", b""):
        pass
    return raw


def body(random: Random, token: str) -> bytes:
    """The bytes of a body with the token in it. At times it is just noise around the token."""
    while not _survives(token, raw := holding(token, lambda: _body(random, token))):
        pass
    return raw


def _survives(token: str, raw: bytes) -> bool:
    """Whether it is there for who reads JSON: of a name that comes twice only the last value is."""
    try:
        return token in json.dumps(json.loads(raw))
    except (ValueError, RecursionError):
        return True  # no JSON: kept as it is


def _body(random: Random, token: str) -> bytes:
    if random.random() < 0.05:
        noise = random.randbytes(random.choice((1, 8, 200)))
        return noise + token.encode() + noise[::-1]
    raw = encoded(random, spelled(random, value(random, token)))
    for _ in range(random.choice((0, 0, 0, 0, 0, 0, 1, 3))):
        raw = torn(random, raw)
    return raw


def attributes(random: Random, token: str) -> dict[str, Any]:
    """Headers of CloudEvents' binary mode, whole or hurt; most often none."""
    if random.random() < 0.7:
        return {}
    prefix = random.choice(PREFIXES)
    fields = hurt(random, {name: one for name, one in cloud(random, token).items() if not name.startswith("data")})
    return {prefix + name: one for name, one in fields.items()}
