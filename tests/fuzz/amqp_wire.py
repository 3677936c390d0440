"""AMQP messages as no client library writes them: properties and header tables byte by byte.

RabbitMQ looks at the types of a table and at little else: what its values mean is found out by who reads them.
https://www.rabbitmq.com/docs/specification, section 4.2.5.5, and RabbitMQ's errata for the letters
"""

import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from amqp import Channel, Connection
from amqp.basic_message import Message

TEXTS = [b"", b"x", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", "سلام".encode(), b"x" * 255, b"application/json", b"gzip"]
# Seconds since 1970: some past what Python's dates hold, such as milliseconds by mistake; and what is negative here.
MOMENTS = [0, 1_800_000_000, 1_800_000_000_000, 253_402_300_800, 2**63 - 1, 2**64 - 1, 2**62]
# The short texts among the properties, by the bit that says that they are there.
SHORT = {"content_type": 15, "content_encoding": 14, "correlation_id": 10, "reply_to": 9, "message_id": 7, "type": 5}
SHORT |= {"app_id": 3, "cluster_id": 2}


class Wire(bytes):
    """A value of a table, its letter first, as it goes over the wire."""


class Raw(Message):
    """A message whose properties are these bytes."""

    def __init__(self, body: bytes, properties: bytes) -> None:
        super().__init__(body)
        self._raw = properties

    def _serialize_properties(self) -> bytes:
        return self._raw


def field(value: object) -> bytes:
    """A value of a table; of what has no form there, its text."""
    if isinstance(value, Wire):
        return bytes(value)
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t" + bytes([value])
    if isinstance(value, int) and abs(value) < 2**63:
        return b"l" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, list):
        return b"A" + _sized(b"".join(map(field, value)))
    if isinstance(value, Mapping):
        return b"F" + table(value)
    return b"S" + _sized(str(value).encode("utf-8", "surrogatepass"))


def table(members: Mapping[Any, object]) -> bytes:
    return _sized(b"".join(_short(name) + field(value) for name, value in members.items()))


def _short(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return bytes([len(raw[:255])]) + raw[:255]


def _sized(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def odd(random: Random, levels: int = 2) -> Wire:
    """A value of a type that a header of Celery's never has, most of them with a content that few expect."""
    raw = random.randbytes(8)
    texts, moment = random.choice(TEXTS), random.choice(MOMENTS)
    kinds: list[Callable[[], bytes]] = [
        lambda: b"T" + struct.pack(">Q", moment),
        lambda: b"D" + raw[:5],
        lambda: b"S" + _sized(texts),
        lambda: b"x" + _sized(texts),
        lambda: b"d" + raw,
        lambda: b"f" + raw[:4],
        lambda: b"l" + raw,
        lambda: random.choice((b"b", b"B")) + raw[:1],
        lambda: random.choice((b"s", b"u")) + raw[:2],
        lambda: random.choice((b"I", b"i")) + raw[:4],
        lambda: b"V",
        lambda: b"t" + raw[:1],
    ]
    if levels:
        kinds.append(lambda: b"F" + table({random.choice(TEXTS): odd(random, levels - 1) for _ in range(3)}))
        kinds.append(lambda: b"A" + _sized(b"".join(odd(random, levels - 1) for _ in range(3))))
        kinds.append(lambda: nested(random.choice((20, 150, 300, 3000))))
    return Wire(random.choice(kinds)())


def nested(levels: int) -> bytes:
    """Arrays in each other."""
    inner = b"V"
    for _ in range(levels):
        inner = b"A" + _sized(inner)
    return inner


def properties(random: Random, headers: Mapping[Any, object], wounds: int, **texts: str | bytes) -> bytes:
    """The properties of a message, as many of them hurt. `texts` are its short ones."""
    told: dict[str, str | bytes] = {"content_type": "application/json", "content_encoding": "utf-8", **texts}
    fields = dict(headers)
    moment: int | None = None
    for _ in range(wounds):
        match random.randrange(4):
            case 0:
                told[random.choice(list(SHORT))] = random.choice(TEXTS)
            case 1:
                moment = random.choice(MOMENTS)
            case _:
                fields[random.choice([*fields, "unknown", b"\xff\xfe", "CC", "x-death", "x-delay"])] = odd(random)
    return _written(told, fields, moment)


def _written(told: Mapping[str, str | bytes], fields: Mapping[Any, object], moment: int | None) -> bytes:
    parts = {SHORT[name]: _short(text) for name, text in told.items()} | {13: table(fields), 12: b"\x02"}
    if moment is not None:
        parts[6] = struct.pack(">Q", moment)
    flags = sum(1 << bit for bit in parts)
    return struct.pack(">H", flags) + b"".join(parts[bit] for bit in sorted(parts, reverse=True))


class Publisher:
    """Publishes, one by one, and says what the broker has taken; what it ends the connection over was not."""

    def __init__(self, url: str) -> None:
        rest = url.removeprefix("amqp://").partition("@")[2]
        self._host, _, self._vhost = rest.partition("/")
        self._connection: Any = None
        self._channel: Any = None

    def publish(self, message: Message, exchange: str, routing_key: str | bytes) -> bool:
        """Whether RabbitMQ has confirmed it."""
        try:
            if self._connection is None:
                self._connection = Connection(self._host, virtual_host=self._vhost or "/", confirm_publish=True)
                self._connection.connect()
                self._channel = Channel(self._connection)
                self._channel.open()
            self._channel.basic_publish(message, exchange, routing_key, confirm_timeout=30)
        except Exception:  # noqa: BLE001 - whatever it says, it has not taken it
            self.close()
            return False
        return True

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.collect()
