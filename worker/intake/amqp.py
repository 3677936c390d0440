"""The JSON queue on RabbitMQ."""

import select
from collections import deque
from collections.abc import Sequence
from typing import Any

from worker import json_queue
from worker.broker import Connection
from worker.intake.delivery import ENOUGH, Delivery

# Messages in hand, acknowledged or not yet: enough for the next batches to be here while one is passed on.
PREFETCH = 1000
# Seconds. RabbitMQ and we both notice a silent other side within twice this.
HEARTBEAT = 30
# Bytes read at once. py-amqp asks the socket for each part of each frame, six times a message.
CHUNK = 64 * 1024


class Amqp:
    """A consumer on a connection of its own, which may be opened again after it was closed.

    It reads py-amqp's messages as they come: kombu's own consumer spends a third of the time of a message on properties
    that nobody looks at here.
    """

    def __init__(self, url: str) -> None:
        self._connection = Connection(url, heartbeat=HEARTBEAT, connect_timeout=2)
        self._channel: Any = None
        self._amqp: Any = None

    def open(self) -> None:
        self._connection.connect()  # one try; a channel would be tried for until there is one
        self._amqp = self._connection.connection
        self._amqp.sock.settimeout(HEARTBEAT)  # a broker that freezes while we wait for its answer
        json_queue.declare(self._connection)
        self._arrived: deque[Any] = deque()
        self._unacknowledged = 0
        self._ahead = _ReadAhead(self._amqp.transport)
        self._channel = self._connection.default_channel
        self._channel.auto_decode = False
        self._channel.basic_qos(0, PREFETCH, False)
        self._channel.basic_consume(json_queue.QUEUE.name, callback=self._arrived.append)

    def close(self) -> None:
        self._connection.collect(socket_timeout=1)

    def receive(self, most: int) -> Sequence[Delivery]:
        enough = self._ahead.received + ENOUGH
        wait = 1.0
        while len(self._arrived) < most and self._ahead.received < enough and self._readable(wait):
            self._frame()
            wait = 0.0
        self._connection.heartbeat_check()
        found = [_delivery(self._arrived.popleft()) for _ in range(min(most, len(self._arrived)))]
        self._unacknowledged += len(found)
        return found

    def done(self, deliveries: Sequence[Delivery]) -> None:
        self._unacknowledged -= len(deliveries)
        if not self._unacknowledged:  # then everything before the last is done, too
            self._channel.basic_ack(deliveries[-1].tag, multiple=True)
            return
        for delivery in deliveries:
            self._channel.basic_ack(delivery.tag)

    def beat(self) -> None:
        # Its own sign of life stands behind the messages that it has sent. One frame each time, so that few pile up.
        if self._readable(0.0):
            self._frame()
        self._connection.heartbeat_check()

    def _readable(self, wait: float) -> bool:
        return self._ahead.has_more() or bool(select.select([self._amqp.sock], [], [], wait)[0])

    def _frame(self) -> None:
        """Read one. (After a heartbeat py-amqp's drain_events reads on until a message comes: when quiet, for ever.)"""
        self._amqp.on_inbound_frame(self._amqp.transport.read_frame())


class _ReadAhead:
    """Reads from the socket a chunk at a time; py-amqp takes what it wants."""

    def __init__(self, transport: Any) -> None:
        self._pending = getattr(transport.sock, "pending", lambda: 0)  # what TLS has decrypted and nobody has read
        self._recv, transport._quick_recv = transport._quick_recv, self  # the one place where py-amqp reads
        self._chunk, self._at = b"", 0
        self.received = 0  # bytes

    def has_more(self) -> bool:
        return self._at < len(self._chunk) or self._pending() > 0

    def __call__(self, size: int) -> bytes:
        if self._at == len(self._chunk):
            self._chunk, self._at = self._recv(max(size, CHUNK)), 0
            self.received += len(self._chunk)
        part = self._chunk[self._at : self._at + size]
        self._at += len(part)
        return part


def _delivery(message: Any) -> Delivery:
    properties = message.properties
    headers = properties.get("application_headers") or {}
    return Delivery(message.body, properties.get("content_type"), headers, message.delivery_tag)
