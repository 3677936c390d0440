"""How each server of sockets is started, and how an update reaches it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from redis.asyncio import Redis

from benchmarks.processes import Crew
from worker.hosts import bundled

Publish = Callable[[str, str], Awaitable[object]]
"""Publishes a frame to the sockets of one owner."""


class SocketServer(Protocol):
    """One process that listens on `/ws`."""

    @property
    def name(self) -> str:
        """For performance.json."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def compression(self) -> bool:
        """Whether its clients offer it, as browsers do."""

    @property
    def may_lose(self) -> bool:
        """Whether it promises less than every frame: then what is lost is counted, and fails no benchmark."""

    def start(self, crew: Crew, port: int, secret: str) -> None:
        """Start it. Tokens are signed with `secret` (HS256)."""

    def publisher(self, redis_url: str) -> AbstractAsyncContextManager[Publish]:
        """Publishes as this system's applications do, on a connection that stays open."""


class Gateway:
    name = "gateway"
    label = "this service"
    compression = True
    may_lose = False

    def start(self, crew: Crew, port: int, secret: str) -> None:
        crew.start("worker.gateway", PORT=str(port), REDIRECT_JWT_SECRET=secret)

    @asynccontextmanager
    async def publisher(self, redis_url: str) -> AsyncIterator[Publish]:
        async with Redis.from_url(redis_url) as redis:

            async def publish(owner_id: str, text: str) -> None:
                await redis.publish(bundled.channel(owner_id), text)

            await redis.ping()  # connects
            yield publish


@dataclass(frozen=True)
class Channels:
    """On uvicorn, with one of the two layers of channels_redis.

    A layer delivers at most once: https://channels.readthedocs.io/en/stable/channel_layer_spec.html
    """

    name: str
    layer: str
    compression: bool = True
    may_lose = True

    @property
    def label(self) -> str:
        without = "" if self.compression else ", no compression offered"
        return f"Django Channels, {self.layer.rpartition('.')[2]}{without}"

    def start(self, crew: Crew, port: int, secret: str) -> None:
        application = "benchmarks.peers.channels_app:application"
        options = ("--log-level", "warning", "--port", str(port))
        crew.start("uvicorn", application, *options, JWT_SECRET=secret, CHANNEL_LAYER=self.layer)

    @asynccontextmanager
    async def publisher(self, redis_url: str) -> AsyncIterator[Publish]:
        from django.utils.module_loading import import_string

        layer = import_string(self.layer)(hosts=[{"address": redis_url, "socket_timeout": None}])

        async def publish(owner_id: str, text: str) -> None:
            await layer.group_send(f"conversations.{owner_id}", {"type": "conversation.updated", "text": text})

        await publish("nobody", "")  # connects
        yield publish
        await layer.flush()


CORE, PUBSUB = "channels_redis.core.RedisChannelLayer", "channels_redis.pubsub.RedisPubSubChannelLayer"
SERVERS: tuple[SocketServer, ...] = (
    Gateway(),
    Channels("channels", PUBSUB),
    Channels("channels-core", CORE),
    # A compressor for each socket is most of its memory: what is left when no client asks for one.
    Channels("channels-plain", PUBSUB, compression=False),
)
