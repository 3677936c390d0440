"""Requests as bytes: nearly right, hurt in one part or the other, or none at all."""

from random import Random

from tests.fuzz import spelling
from tests.integration.tokens import PRODUCER

METHODS = [
    b"GET",
    b"POST",
    b"HEAD",
    b"OPTIONS",
    b"PUT",
    b"DELETE",
    b"TRACE",
    b"CONNECT",
    b"PRI",
    b"get",
    b"",
    b"G\x00T",
]
PATHS = [b"/", b"/events", b"/healthz", b"/conversations", b"/conversations/%ff%00", b"/conversations/" + b"x" * 70_000]
PATHS += [
    b"*",
    b"//",
    b"/../../etc/passwd",
    b"http://127.0.0.1/events",
    b"/\xff\xfe",
    b"/ws",
    b"/%",
    b"/docs?\x00",
    b"",
]
PATHS += [b"/conversations?limit=" + b"9" * 5000, b"/conversations?after=%ED%A0%80", b"/activity;x", b"/openapi.json#"]
VERSIONS = [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"", b"HTTP/1.1 x"]
HEADERS = [b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 5\r\nContent-Length: 6"]
HEADERS += [b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: \x00", b"X: \xff"]
HEADERS += [b": none", b"no colon", b" folded", b"X:" + b"x" * 70_000, b"Host: \xff", b"Host: a\r\nHost: b", b"Host:"]
HEADERS += [
    b"Expect: 100-continue",
    b"Expect: nonsense",
    b"Connection: Upgrade",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
]
HEADERS += [b"Authorization: Bearer \xff", b"Authorization: Basic", b"Authorization:", b"Cookie: " + b"a=b;" * 1000]
HEADERS += [
    b"Content-Encoding: gzip",
    b"Content-Type: \xff/\x00",
    b"ce-specversion: 1.0",
    b"ce-id: %ff%00",
    b"Range: -",
]
HEADERS += [b"traceparent: 00-" + b"0" * 32, b"Accept: " + b"*" * 5000, b"If-None-Match: *", b"Origin: null"]
BREAKS = [b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n\r\n", b"\x00"]
NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n" * 1000,
    b"\x00" * 5000,
]
NO_HTTP += [
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"x" * 200_000,
    b"*1\r\n$4\r\nPING\r\n",
    b"AMQP\x00\x00\x09\x01",
]
ENDS = [b"\r\n0\r\n\r\n", b"", b"\r\nffffffffffffffffff\r\n", b"0;x=\xff"]


def request(random: Random, told: str) -> bytes:
    """Nearly one; or one behind the other; or none at all."""
    if random.random() < 0.1:
        return random.choice([*NO_HTTP, random.randbytes(300)])
    raw = b"".join(_one(random, told) for _ in range(random.choice((1, 1, 1, 2, 5))))
    return raw[: random.randrange(len(raw) + 1)] if random.random() < 0.2 else raw


def _one(random: Random, told: str) -> bytes:
    body = spelling.body(random, told)
    kind = random.choice(spelling.TYPES) or "application/json"
    lines = [b" ".join((random.choice(METHODS[:2] * 4 + METHODS), random.choice(PATHS), random.choice(VERSIONS)))]
    lines += [b"Host: 127.0.0.1", f"Content-Type: {kind}".encode(), f"Authorization: Bearer {PRODUCER}".encode()]
    lines += [b"Content-Length: %d" % (len(body) + random.choice((0, 0, 0, 0, -1, 1, 10**6)))]
    for _ in range(random.choice((0, 1, 2, 5))):
        lines.insert(random.randrange(1, len(lines) + 1), random.choice(HEADERS))
    chunked = b"%x\r\n" % len(body) + body + random.choice(ENDS)
    return random.choice(BREAKS).join(lines) + b"\r\n\r\n" + (chunked if random.random() < 0.2 else body)
