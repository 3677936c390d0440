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
from typing import Any, Self
from uuid import uuid4

import structlog
from redis import Redis
from redis.exceptions import RedisError

from worker.intake.delivery import Delivery
from worker.json_queue import QUEUE

log = structlog.get_logger(__name__)

# Where kombu puts messages of priorities 0, 3, 6 and 9.
LISTS = (QUEUE.name, *(f"{QUEUE.name}\x06\x16{priority}" for priority in (3, 6, 9)))
# The ids of all intakes, with the time (the server's, in seconds) of their last sign of life.
ALIVE = f"{QUEUE.name}.intakes"
# Seconds between signs of life, and without one until another takes over. Taking over too early only doubles.
SIGN_EVERY, DEAD_AFTER = 5.0, 60.0

_TAKE = """
local taken = {}
for list = 1, #KEYS - 1 do
  while #taken < tonumber(ARGV[1]) do
    local item = redis.call('LMOVE', KEYS[list], KEYS[#KEYS], 'RIGHT', 'LEFT')
    if not item then break end
    taken[#taken + 1] = item
  end
end
return taken
"""


class RedisList:
    """A reader with a list of its own."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(
            url, socket_timeout=5, socket_connect_timeout=2, socket_keepalive=True, health_check_interval=30
        )
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._taken = _taken(self.id)
        self._signed = float("-inf")

    def __enter__(self) -> Self:
        self.beat()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back(self.id)
        except RedisError as error:
            log.warning("what was in hand is left to another intake", action="intake_left", error=repr(error))
        self._redis.close()

    def receive(self, most: int) -> Sequence[Delivery]:
        self.beat()
        items = self._take(most)
        if not items and (first := self._wait()):
            items = [first, *self._take(most - 1)]
        return [_delivery(item) for item in items]

    def _wait(self) -> bytes | None:
        first: Any = self._redis.blmove(QUEUE.name, self._taken, 1, "RIGHT", "LEFT")
        return first  # type: ignore[no-any-return]

    def _take(self, most: int) -> list[bytes]:
        found: Any = self._redis.eval(_TAKE, len(LISTS) + 1, *LISTS, self._taken, most)
        return list(found)

    def done(self, deliveries: Sequence[Delivery]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for delivery in deliveries:
            pipeline.lrem(self._taken, -1, delivery.tag)  # from the oldest: the first it looks at
        pipeline.execute()

    def beat(self) -> None:
        if time.monotonic() - self._signed < SIGN_EVERY:
            return
        now = self._redis.time()[0]
        self._redis.zadd(ALIVE, {self.id: now})
        self._signed = time.monotonic()
        silent: Any = self._redis.zrangebyscore(ALIVE, "-inf", now - DEAD_AFTER)
        for dead in silent:
            moved = self._give_back(dead.decode())
            log.warning("took over from an intake that has died", action="intake_took_over", messages=moved)

    def _give_back(self, intake: str) -> int:
        """Put what this intake has in hand back on the queue, the oldest to be the next. Returns how many."""
        moved = 0
        while self._redis.lmove(_taken(intake), QUEUE.name, "LEFT", "RIGHT"):
            moved += 1
        self._redis.zrem(ALIVE, intake)
        return moved


def _taken(intake: str) -> str:
    return f"{QUEUE.name}.taken.{intake}"


def _delivery(item: bytes) -> Delivery:
    """What kombu's envelope holds; an item that is none (a raw LPUSH of JSON) is the body itself."""
    try:
        return _opened(item)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Delivery(item, None, {}, item)


def _opened(item: bytes) -> Delivery:
    envelope = json.loads(item)
    body, headers, content_type = envelope["body"], envelope.get("headers") or {}, envelope.get("content-type")
    if envelope["properties"].get("body_encoding") == "base64":
        body = b64decode(body, validate=True)
    if not isinstance(body, bytes | str) or not isinstance(headers, Mapping):
        raise TypeError("no envelope of kombu's")
    return Delivery(body, content_type if isinstance(content_type, str) else None, headers, item)
