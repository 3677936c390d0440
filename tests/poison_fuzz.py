"""Messages with random damage, each of which can be told apart from all others by its token."""

import bz2
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from tests.poison import EMBED, GONE, changed, deepened, envelope, event, headers, properties

STRINGS = ["", "x", "\x00", "\ud800", "😀" * 70, "سلام", "' OR 1=1 --", "a\nb", "x" * 70_000, "2026-11-22T10:00:00Z"]
TOKEN = re.compile(r"fuzz-(?:[0-9a-f]{10}-)?\d{4}")
NUMBERS = [0, -1, 1.5, True, 2**63, 10**400, 1e308, math.inf, math.nan]


def anything(random: Random, levels: int = 3) -> Any:
    """A random JSON value, from the corners."""
    kind = random.randrange(8 if levels else 4)
    if kind < 2:
        return random.choice(STRINGS)
    if kind < 4:
        return random.choice([None, GONE, *NUMBERS])
    if kind < 5:
        return f"DEEP {random.choice([10, 190, 230, 940, 2000])}"
    inner = [value for value in (anything(random, levels - 1) for _ in range(random.randrange(4))) if value is not GONE]
    return inner if kind < 7 else {random.choice(("task", "id", "x", "__type__")): value for value in inner}


def damaged(random: Random, fields: dict[str, Any], wounds: int) -> dict[str, Any]:
    names = [*fields, "unknown", "get", "callbacks", "expires_at"]
    return changed(fields, **{name: anything(random) for name in random.sample(names, wounds)})


def mutants(random: Random, tokens: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(token, item): a healthy message that was hurt in one place; its token is in all the other places."""
    for token in tokens:
        yield token, deepened(_mutant(random, token))


def _mutant(random: Random, token: str) -> bytes:
    fields = event(token, source=token, reason=token, actor={"type": "user", "id": token}, metadata={"token": token})
    place = random.choice(("event", "headers", "properties", "envelope", "bytes", "embed", "protocol 1", "compression"))
    wounds = random.randint(1, 3)
    top, routed, embed = headers(token), properties(correlation_id=token), dict(EMBED)
    if place == "event":
        fields = damaged(random, fields, wounds)
    if place == "headers":
        top = damaged(random, top, wounds)
    if place == "properties":
        routed = damaged(random, routed, wounds)
    if place == "embed":
        embed = damaged(random, embed, wounds)
    content = deepened(json.dumps([[fields], {}, embed]).encode())
    if place == "bytes":
        content = torn(random, content)
    if place == "protocol 1":
        top, content = {}, deepened(json.dumps(_call(random, token, fields, wounds)).encode())
    if place == "compression":
        top["compression"] = random.choice(("gzip", "bzip2", "lzma", "zlib", "application/x-gzip", "zstd", "", 5))
        content = random.choice((zlib, bz2, lzma)).compress(content)
        content = torn(random, content) if wounds > 1 else content
    item = envelope(top, content, properties=routed)
    return json.dumps(damaged(random, json.loads(item), 1)).encode() if place == "envelope" else item


def _call(random: Random, token: str, fields: dict[str, Any], wounds: int) -> dict[str, Any]:
    """A message of protocol 1."""
    call: dict[str, Any] = {"task": "redirect_conversation", "id": token, "kwargs": {}, "origin": token}
    call |= {"eta": None, "retries": 0}
    call = damaged(random, call, wounds) | {"args": [fields]}
    if isinstance(call.get("kwargs"), dict):
        call["kwargs"] = {}  # what stood in it would be an event of its own, without the token
    return call


def torn(random: Random, content: bytes) -> bytes:
    """With one byte struck out or through."""
    position = random.randrange(len(content) + 1)
    return content[:position] + random.choice((b"", b"\xff", b"]", b'"', b"\x00")) + content[position + 1 :]
