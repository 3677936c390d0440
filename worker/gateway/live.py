"""The live channel: one Redis subscription per process, fanned out to a bounded backlog per socket.

A snapshot heals everything. What a socket may have missed (Redis was away, the client was too slow) is not replayed:
the socket is behind, and a snapshot of the present states brings it up to date.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Unreachable

from worker.errors import Transient
from worker.redis_client import TIMEOUT

log = structlog.get_logger(__name__)

PATTERN = "conversations.*"
# Seconds of silence before Redis is asked whether it still lives.
QUIET = 5.0
# Frames. As many as a snapshot has conversations: a longer backlog costs more than the snapshot that replaces it.
BACKLOG = 200
# Conversations whose last version a socket remembers; beyond that, a late duplicate is left to the client to drop.
REMEMBERED = 2000
# Seconds between attempts, doubling from the first to the second.
REDIS_WAITS = (0.1, 2.0)
SNAPSHOT_WAITS = (0.5, 15.0)


class Snapshot(NamedTuple):
    """The frame that a socket gets first, and the version of each conversation in it."""

    text: str
    versions: Mapping[str, int]


ReadSnapshot = Callable[[str | None], Awaitable[Snapshot]]
"""Reads the states of one owner, or of all (None). Raises Transient in bounded time when the database is away."""


class Frame(NamedTuple):
    """One message of the channel: what the fan-out must know, and the text that goes to sockets unchanged."""

    conversation_id: str
    owner_id: str | None
    version: int
    text: str


class _Known(BaseModel):
    model_config = ConfigDict(strict=True)

    conversation_id: str
    owner_id: str | None = None
    version: int


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


class Feed:
    """What one socket still has to be sent."""

    def __init__(self, owner_id: str | None, read_snapshot: ReadSnapshot) -> None:
        self._owner_id = owner_id
        self._read_snapshot = read_snapshot
        self._backlog: deque[Frame] = deque()
        self._sent: dict[str, int] = {}
        self._behind = True
        self._due = 0.0
        self._failures = 0
        self._changed = asyncio.Event()

    def offer(self, frame: Frame) -> None:
        """Take a frame that was just published; never waits. A full backlog gives way to a snapshot."""
        if self._owner_id not in (None, frame.owner_id):
            return
        if len(self._backlog) == BACKLOG:
            self._backlog.clear()
            self.fall_behind()
        self._backlog.append(frame)
        self._changed.set()

    def fall_behind(self) -> None:
        """Note that frames may be missing: the next thing sent is a snapshot."""
        if not self._behind:
            self._behind, self._due, self._failures = True, 0.0, 0
        self._changed.set()

    async def next(self) -> str:
        """The next text for the socket, once there is one."""
        while True:
            text = None
            if self._behind and self._due <= _clock():
                text = await self._catch_up()
            elif self._backlog:
                text = self._take()
            else:
                await self._wait()
            if text is not None:
                return text

    async def _catch_up(self) -> str | None:
        """A snapshot. Frames wait meanwhile, or the snapshot could take back what they said; if there is none, they go
        on and it is tried again later."""
        self._behind = False  # before the read: what happens from now on may be missing in it
        try:
            snapshot = await self._read_snapshot(self._owner_id)
        except Transient as error:
            self._postpone(error)
            return None
        self._remember(snapshot.versions)
        return snapshot.text

    def _postpone(self, error: Transient) -> None:
        self._behind, self._due = True, _clock() + backoff(self._failures, SNAPSHOT_WAITS)
        if not self._failures:
            log.warning("no snapshot for a socket: tried again", action="snapshot_postponed", error=str(error))
        self._failures += 1

    def _take(self) -> str | None:
        """The oldest frame, or None when the socket already has its version."""
        frame = self._backlog.popleft()
        if frame.version <= self._sent.get(frame.conversation_id, 0):
            return None
        self._remember({frame.conversation_id: frame.version})
        return frame.text

    async def _wait(self) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._due if self._behind else None):
                await self._changed.wait()

    def _remember(self, versions: Mapping[str, int]) -> None:
        for conversation_id, version in versions.items():
            self._sent.pop(conversation_id, None)
            self._sent[conversation_id] = version
        while len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]


class Live:
    """The one subscription of this process, and the feeds that hang on it."""

    def __init__(self, redis: Redis, read_snapshot: ReadSnapshot) -> None:
        self.subscribed = asyncio.Event()
        self._redis = redis
        self._read_snapshot = read_snapshot
        self._feeds: set[Feed] = set()
        self._failures = 0

    @contextmanager
    def feed(self, owner_id: str | None) -> Iterator[Feed]:
        """A feed of one owner's conversations, or of all; it misses nothing from here on."""
        feed = Feed(owner_id, self._read_snapshot)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)

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
        async with self._redis.pubsub() as subscription:
            await subscription.psubscribe(PATTERN)
            while True:
                message = await _next(subscription)
                # redis-py may reconnect silently; each subscription is confirmed, so this sees every one.
                if message["type"] == "psubscribe":
                    self._begin()
                elif message["type"] == "pmessage":
                    self._hand_on(message["data"])
                # A pipeline's messages come without a pause: let the sockets send, or their backlogs fill up.
                await asyncio.sleep(0)

    def _begin(self) -> None:
        self._failures = 0
        self.subscribed.set()
        for feed in self._feeds:
            feed.fall_behind()
        log.info("subscribed to the live channel", action="live_subscribed", sockets=len(self._feeds))

    def _lost(self, error: Exception) -> None:
        if self.subscribed.is_set() or not self._failures:
            log.warning("the live channel is lost: subscribing again", action="live_lost", error=repr(error))
        self.subscribed.clear()

    def _hand_on(self, data: bytes) -> None:
        try:
            known = _Known.model_validate_json(data)
        except ValidationError as error:
            log.warning("not a live frame: dropped", action="live_dropped", error=str(error.errors()[0]["msg"]))
            return
        frame = Frame(known.conversation_id, known.owner_id, known.version, data.decode())
        for feed in self._feeds:
            feed.offer(frame)


def backoff(failures: int, waits: tuple[float, float]) -> float:
    """Seconds until the next attempt: doubling, and different for each, so that they do not all come at once."""
    first, longest = waits
    chance = random.uniform(0.5, 1)  # noqa: S311 - chance, not a secret
    return min(longest, first * 2.0 ** min(failures, 16)) * chance


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


def _clock() -> float:
    return asyncio.get_running_loop().time()
