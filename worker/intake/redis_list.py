"""The JSON queue on Redis: a list, read without a moment at which a message is nowhere.

kombu takes a message off its list and notes it in a second step; a kill in between loses it, and one message costs a
millisecond. Here one step moves whatever has arrived to a list of this process's own (LMOVE), where it stays until
it is passed on. Another intake takes over the list of one that has died.
(docs/decisions/0009-the-intake-reads-redis-itself.md)
"""

import json
import os
import socket
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import RedisError
from redis.retry import Retry

from worker import json_queue
from worker.broker import Connection
from worker.intake.delivery import ENOUGH, Delivery

log = structlog.get_logger(__name__)

NAME = json_queue.QUEUE.name
# Where kombu puts messages of priorities 0, 3, 6 and 9.
LISTS = (NAME, *(f"{NAME}\x06\x16{priority}" for priority in (3, 6, 9)))
# The ids of all intakes, with the time (the server's, in seconds) of their last sign of life.
ALIVE = f"{NAME}.intakes"
# Seconds between signs of life, and without one until another takes over. Taking over too early only doubles.
SIGN_EVERY, DEAD_AFTER = 5.0, 60.0
# Bytes. What is longer is no message, whatever it holds: JSON takes up to 20 times its length in memory.
LARGEST = 32 * 1024 * 1024

# A list that holds something has its intake in ALIVE, so that it is found: both change in one step, here and below. For
# the server may run this after we have given up waiting for the answer.
_TAKE = """
local taken, size = {}, 0
for list = 3, #KEYS do
  while #taken < tonumber(ARGV[1]) and size < tonumber(ARGV[2]) do
    local item = redis.call('LMOVE', KEYS[list], KEYS[1], 'RIGHT', 'LEFT')
    if not item then break end
    taken[#taken + 1], size = item, size + #item
  end
end
if #taken > 0 then redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[3]) end
return taken
"""
# The newest first, to the end that is read: so the oldest is the next.
_GIVE_BACK = """
local moved = 0
while redis.call('LMOVE', KEYS[1], KEYS[3], 'LEFT', 'RIGHT') do moved = moved + 1 end
redis.call('ZREM', KEYS[2], ARGV[1])
return moved
"""


class RedisList:
    """A reader with a list of its own; it may be opened again after it was closed."""

    def __init__(self, url: str) -> None:
        self._url = url
        # No retries: what failed may have run all the same, so what is in hand is counted anew on another connection.
        self._redis = Redis.from_url(
            url, socket_timeout=5, socket_connect_timeout=2, socket_keepalive=True, retry=Retry(NoBackoff(), 0)
        )
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._taken = taken_by(self.id)

    def open(self) -> None:
        self._give_back(self.id)  # what it had when it lost the connection
        self._in_hand, self._signed = 0, float("-inf")
        self.beat()
        with Connection(self._url, connect_timeout=2, transport_options={"socket_timeout": 5}) as connection:
            connection.connect()
            json_queue.declare(connection)

    def close(self) -> None:
        try:
            self._give_back(self.id)
        except RedisError as error:
            log.warning("what was in hand stays there for now", action="intake_left", error=repr(error))
        self._redis.close()

    def receive(self, most: int) -> Sequence[Delivery]:
        self.beat()
        items = self._take(most)
        if not items and self._redis.blmove(NAME, NAME, 1, "RIGHT", "RIGHT"):  # from its end to its end: it only waits
            items = self._take(most)
        self._in_hand += len(items)
        return [_delivery(item) for item in items]

    def _take(self, most: int) -> list[bytes]:
        found: Any = self._redis.eval(_TAKE, 2 + len(LISTS), self._taken, ALIVE, *LISTS, most, ENOUGH, self.id)
        return list(found)

    def done(self, deliveries: Sequence[Delivery]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for delivery in deliveries:
            pipeline.lrem(self._taken, -1, delivery.tag)  # from the oldest: the first it looks at
        pipeline.execute()
        self._in_hand -= len(deliveries)

    def beat(self) -> None:
        if time.monotonic() - self._signed < SIGN_EVERY:
            return
        now = self._redis.time()[0]
        self._redis.zadd(ALIVE, {self.id: now})
        self._signed = time.monotonic()
        if self._redis.llen(self._taken) > self._in_hand:
            raise Lost("more was taken than has arrived here")
        silent: Any = self._redis.zrangebyscore(ALIVE, "-inf", now - DEAD_AFTER)
        for dead in silent:
            moved = self._give_back(dead.decode())
            log.warning("took over from an intake that has died", action="intake_took_over", messages=moved)

    def _give_back(self, intake: str) -> int:
        """Put what this intake has in hand back on the queue, the oldest to be the next. Returns how many."""
        moved: Any = self._redis.eval(_GIVE_BACK, 3, taken_by(intake), ALIVE, NAME, intake)
        return int(moved)


def taken_by(intake: str) -> str:
    """The list of what an intake has in hand."""
    return f"{NAME}.taken.{intake}"


def _delivery(item: bytes) -> Delivery:
    """What kombu's envelope holds; an item that is none (a raw LPUSH of JSON) is the body itself."""
    try:
        return _opened(item)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Delivery(item, None, {}, item)


def _opened(item: bytes) -> Delivery:
    if len(item) > LARGEST:
        raise ValueError("too large to be looked into")
    envelope = json.loads(item)
    body, headers, content_type = envelope["body"], envelope.get("headers") or {}, envelope.get("content-type")
    if envelope["properties"].get("body_encoding") == "base64":
        body = b64decode(body, validate=True)
    if not isinstance(body, bytes | str) or not isinstance(headers, Mapping):
        raise TypeError("no envelope of kombu's")
    return Delivery(body, content_type if isinstance(content_type, str) else None, headers, item)
