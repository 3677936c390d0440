"""Publishing within a deadline, in a thread that can be left behind: a frozen broker or resolver gives no error."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Event, Lock
from typing import Any

from kombu import Producer

from worker import json_queue
from worker.broker import Connection

# Seconds. Gateways and firewalls forget silent connections after minutes; then a publish would wait for nothing.
IDLE = 60.0
_JSON = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": "persistent"}


class OutOfTime(Exception):
    """The caller waits no longer; nothing more is sent."""


class Call:
    """What a caller waits for and a sender works on: messages to be published in order before the deadline."""

    def __init__(self, bodies: Sequence[bytes], deadline: float, headers: Mapping[str, str]) -> None:
        """`deadline` is a time of `time.monotonic()`. Each message has these `headers`."""
        self._bodies, self._deadline, self.headers = bodies, deadline, headers
        self._lock, self._ended, self._given_up = Lock(), Event(), False
        self.confirmed, self.begun = 0, False
        self.error: Exception | None = None

    @property
    def rest(self) -> Sequence[bytes]:
        return self._bodies[self.confirmed :]

    def begin(self) -> float:
        """The seconds that a publish has; from here on its result may be unknown. Raises OutOfTime."""
        with self._lock:
            left = self._deadline - time.monotonic()
            if self._given_up or left <= 0:
                raise OutOfTime
            self.begun = True
            return left

    def end(self, error: Exception | None) -> bool:
        """Whether the caller was still there to hear it."""
        with self._lock:
            self.error = error
            self._ended.set()
            return not self._given_up

    def wait(self) -> None:
        """Until it has ended or time is up; after that, nothing that was not begun is begun."""
        self._ended.wait(max(0.0, self._deadline - time.monotonic()))
        with self._lock:
            self._given_up = not self._ended.is_set()
            if self._given_up:
                self.error = OutOfTime()


class Sender:
    """One connection to the broker; one call at a time. Nothing is opened before the first."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self._connection: Connection | None = None
        self._producer: Any = None
        self._used = 0.0

    def run(self, call: Call) -> None:
        """Work on `call`. A connection whose state is not known, because it failed or the caller left, is closed."""
        error: Exception | None = None
        try:
            self._send(call)
        except Exception as failure:  # noqa: BLE001 - whatever it was, the caller is to hear it
            error = failure
        if not call.end(error) or error is not None:
            self.close()

    def _send(self, call: Call) -> None:
        if time.monotonic() - self._used > IDLE:
            self.close()
        reused = self._connection is not None
        try:
            self._publish(call)
        except Exception:
            if not reused:
                raise
            self.close()  # it may have died while it was idle, or its queue is gone: connect and declare once more
            self._publish(call)

    def _publish(self, call: Call) -> None:
        if self._connection is None:
            self._connect()
        for body in call.rest:
            left = call.begin()
            options = {"headers": call.headers, "timeout": left, "confirm_timeout": left}
            self._producer.publish(body, **_JSON, mandatory=True, **options)
            call.confirmed += 1
        self._used = time.monotonic()

    def _connect(self) -> None:
        self._connection = connection = Connection(
            self._url, connect_timeout=self._timeout, transport_options=_options(self._timeout)
        )
        json_queue.declare(connection)
        self._producer = _producer(connection)

    def close(self) -> None:
        """Bounded by the timeouts of the connection."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _options(timeout: float) -> dict[str, Any]:
    """A thread that was left behind ends by these. Each transport takes those that it knows."""
    return {
        "confirm_publish": True,
        "read_timeout": timeout,
        "write_timeout": timeout,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        # kombu's default is to connect for ever, with 2 s and more in between.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0,
        "connect_retries_timeout": timeout,
    }


def _producer(connection: Connection) -> Any:
    """Publishes JSON, persistently.

    On Redis an exchange is a set of bindings, and a message for which it holds none is dropped without a word, as after
    a FLUSHALL or a failover. So there it goes to the queue by name.
    """
    direct = connection.transport.driver_type == "redis"
    where = (
        {"routing_key": json_queue.QUEUE.name}
        if direct
        else {"exchange": json_queue.EXCHANGE, "routing_key": json_queue.ROUTING_KEY}
    )
    return Producer(connection.default_channel, auto_declare=False, **where)
