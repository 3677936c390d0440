"""The live channel: one Redis subscription per process, fanned out to the sockets that may see each frame.

What a socket may have missed is not replayed from the channel, which keeps nothing: the database says what moved
meanwhile, or all that holds.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Unreachable

from config import tracing
from worker.errors import Transient
from worker.gateway.feed import Feed, Frame, ReadSnapshot, Send, backoff
from worker.gateway.folding import Folding
from worker.gateway.views import View
from worker.redis_client import TIMEOUT

log = structlog.get_logger(__name__)

PATTERN = "conversations.*"
# Seconds of silence before Redis is asked whether it still lives.
QUIET = 5.0
# Seconds between attempts, doubling from the first to the second.
REDIS_WAITS = (0.1, 2.0)
# Seconds before an outage was noticed from which frames may be missing: Redis was silent, asked, and did not answer.
# And a transaction may commit that long after the time that it writes.
UNNOTICED = QUIET + 2 * TIMEOUT + 25.0
# Conversations that are told one by one after an outage; more, and every socket gets a snapshot instead.
TOLD = 2000
PAUSED, LIVE = '{"type":"paused"}', '{"type":"live"}'

ReadMissed = Callable[[float, int], Awaitable[Sequence[Frame]]]
"""The frames of what moved within so many seconds, at most so many. Raises Transient in bounded time."""


class _Known(BaseModel):
    model_config = ConfigDict(strict=True)

    conversation_id: str
    owner_id: str | None = None
    version: int
    traceparent: object = None


def client(url: str) -> Redis:
    """An asyncio client with every timeout set (redis-py 8 waits 5 s and tries 10 times by default)."""
    return Redis.from_url(
        url,
        protocol=2,  # nothing of RESP3 is needed, and older servers refuse its HELLO
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        socket_keepalive=True,
        # One silent reconnect, for a connection that died while idle.
        retry=Retry(NoBackoff(), 1, supported_errors=(Unreachable,)),
    )


class Live:
    """The one subscription of this process, and the feeds that hang on it."""

    def __init__(self, redis: Redis, read_snapshot: ReadSnapshot, read_missed: ReadMissed) -> None:
        self.subscribed = asyncio.Event()
        self._redis, self._read_snapshot, self._read_missed = redis, read_snapshot, read_missed
        self._of_owner: dict[str | None, set[Feed]] = defaultdict(set)
        self._of_everybody: set[Feed] = set()
        self._folding = Folding(self._hand_on)
        self._heard = time.monotonic()
        self._failures = 0

    @contextmanager
    def feed(self, view: View, send: Send) -> Iterator[Feed]:
        """A feed of a view: it begins with a snapshot, and misses nothing from here on."""
        feed = Feed(view, self._read_snapshot, send)
        places = self._places(view)
        for place in places:
            place.add(feed)
        try:
            feed.fall_behind()
            if not self.subscribed.is_set():
                feed.tell(PAUSED)
            yield feed
        finally:
            feed.close()
            for place in places:
                place.discard(feed)
            for owner_id in view.owner_ids or ():
                if not self._of_owner[owner_id]:
                    del self._of_owner[owner_id]

    def _places(self, view: View) -> list[set[Feed]]:
        return [self._of_everybody] if view.owner_ids is None else [self._of_owner[owner] for owner in view.owner_ids]

    def _feeds(self) -> set[Feed]:
        return self._of_everybody.union(*self._of_owner.values())

    async def run(self) -> None:
        """Hand on what is published, until cancelled; after every failure, subscribe again."""
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it was, sockets must not go quiet for ever
                self._lost(error)
            await asyncio.sleep(backoff(self._failures, REDIS_WAITS))
            self._failures += 1

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription, asyncio.TaskGroup() as beside:
            await subscription.psubscribe(PATTERN)
            while True:
                message = await _next(subscription)
                # redis-py may reconnect silently; each subscription is confirmed, so this sees every one.
                if message["type"] == "psubscribe":
                    beside.create_task(self._begin(self._heard))
                elif message["type"] == "pmessage":
                    self._take(message["data"])
                self._heard = time.monotonic()
                # A pipeline's messages come without a pause: let the sockets send, or their backlogs fill up.
                await asyncio.sleep(0)

    async def _begin(self, heard: float) -> None:
        """Tell the feeds that it goes on, and what they have missed since Redis was `heard` last."""
        first = not self.subscribed.is_set()
        self._failures = 0
        self.subscribed.set()
        feeds = self._feeds()
        log.info("subscribed to the live channel", action="live_subscribed", sockets=len(feeds))
        if not feeds:
            return
        if first:
            _tell(feeds, LIVE)
        try:
            missed = await self._read_missed(time.monotonic() - heard + UNNOTICED, TOLD + 1)
        except Transient:
            missed = []
            _fall_behind(feeds)
        if len(missed) > TOLD:
            _fall_behind(feeds)
            return
        for frame in reversed(missed):
            self._folding.take(frame)
            await asyncio.sleep(0)  # as above: a backlog holds a tenth of them

    def _lost(self, error: Exception) -> None:
        if self.subscribed.is_set() or not self._failures:
            log.warning("the live channel is lost: subscribing again", action="live_lost", error=repr(error))
        if self.subscribed.is_set():
            _tell(self._feeds(), PAUSED)
        self.subscribed.clear()

    def _take(self, data: bytes) -> None:
        try:
            known = _Known.model_validate_json(data)
        except ValidationError as error:
            log.warning("not a live frame: dropped", action="live_dropped", error=str(error.errors()[0]["msg"]))
            return
        self._folding.take(
            Frame(known.conversation_id, known.owner_id, known.version, data.decode(), known.traceparent)
        )

    def _hand_on(self, frame: Frame) -> None:
        with tracing.span("live frame", frame.traceparent, conversation_id=frame.conversation_id):
            for feed in self._of_everybody:
                feed.offer(frame)
            if frame.owner_id in self._of_owner:
                for feed in self._of_owner[frame.owner_id]:
                    feed.offer(frame)


def _tell(feeds: Iterable[Feed], text: str) -> None:
    for feed in feeds:
        feed.tell(text)


def _fall_behind(feeds: Iterable[Feed]) -> None:
    for feed in feeds:
        feed.fall_behind()


async def _next(subscription: PubSub) -> dict[str, Any]:
    """The next message. Raises Unreachable when Redis is silent.

    redis-py's health_check_interval does not do this: on a subscription it sends the ping and never misses the answer.
    """
    message: dict[str, Any] | None = await subscription.get_message(timeout=QUIET)
    if message is None:
        await subscription.ping()
        message = await subscription.get_message(timeout=TIMEOUT)
    if message is None:
        raise Unreachable(f"Redis did not answer a ping within {TIMEOUT:g} s")
    return message
