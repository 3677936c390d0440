"""The faults of a soak, by name. Each lasts until its block ends; what is killed, the supervisor starts again."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from random import Random

import psutil
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from tests.chaos.harness.proxy import Proxy
from tests.chaos.harness.servers import Server, down, frozen
from tests.chaos.harness.world import World
from tests.service import Process

Fault = Callable[[], AbstractContextManager[None]]


def faults(world: World, mortals: Callable[[str], list[Process]]) -> Mapping[str, Fault]:
    """All of them. `mortals` are the running processes of a kind that may be killed."""
    servers: dict[str, Server] = {"database": world.database, "broker": world.broker, "cache": world.cache}
    found: dict[str, Fault] = {}
    for name, server in servers.items():
        found[f"{name} frozen"] = partial(frozen, server)
        found[f"{name} killed"] = partial(down, server, killed=True)
        found[f"{name} slow"] = partial(_weather, server.proxy, latency=0.1)
        found[f"{name} drips"] = partial(_weather, server.proxy, rate=20_000.0)
        found[f"{name} in a black hole"] = partial(_behind, server.proxy, server.proxy.black_hole)
        found[f"{name} refuses"] = partial(_behind, server.proxy, server.proxy.refuse)
        found[f"{name} resets"] = partial(_behind, server.proxy, server.proxy.reset)
    for kind in ("worker", "intake", "beat"):
        found[f"{kind} SIGKILL"] = partial(_signalled, mortals, kind, signal.SIGKILL)
        found[f"{kind} SIGTERM"] = partial(_signalled, mortals, kind, signal.SIGTERM)
    found["worker SIGQUIT"] = partial(_signalled, mortals, "worker", signal.SIGQUIT)
    found["child SIGKILL"] = partial(_child_killed, mortals, Random(world.seed))
    found["database crash"] = partial(_crashed, world)
    found["backends terminated"] = partial(_once, partial(_terminate_backends, world))
    found["FLUSHALL"] = partial(_once, partial(_redis, world.cache.direct, "FLUSHALL"))
    found["SCRIPT FLUSH"] = partial(_once, partial(_redis, world.cache.direct, "SCRIPT", "FLUSH"))
    found["CLIENT KILL"] = partial(_once, partial(_redis, world.cache.direct, "CLIENT", "KILL", "TYPE", "normal"))
    found["cache full"] = partial(_set, world.cache.direct, "maxmemory", "1", "0")
    return found


@contextmanager
def _weather(proxy: Proxy, *, latency: float = 0.0, rate: float = 0.0) -> Iterator[None]:
    proxy.latency, proxy.rate = latency, rate
    try:
        yield
    finally:
        proxy.heal()


@contextmanager
def _behind(proxy: Proxy, begin: Callable[[], None]) -> Iterator[None]:
    begin()
    try:
        yield
    finally:
        proxy.heal()


@contextmanager
def _once(cause: Callable[[], object]) -> Iterator[None]:
    with suppress(RedisError, DBAPIError):  # another fault is quicker
        cause()
    yield


@contextmanager
def _signalled(mortals: Callable[[str], list[Process]], kind: str, sign: signal.Signals) -> Iterator[None]:
    for process in mortals(kind)[:1]:
        with suppress(ProcessLookupError):
            os.killpg(process.popen.pid, sign) if sign == signal.SIGKILL else process.popen.send_signal(sign)
    yield


@contextmanager
def _child_killed(mortals: Callable[[str], list[Process]], draw: Random) -> Iterator[None]:
    for process in mortals("worker")[:1]:
        with suppress(psutil.NoSuchProcess, IndexError):
            draw.choice(psutil.Process(process.popen.pid).children()).kill()
    yield


@contextmanager
def _crashed(world: World) -> Iterator[None]:
    world.database.crash()
    try:
        yield
    finally:
        world.database.start()


def _terminate_backends(world: World) -> None:
    world.direct.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def _redis(url: str, *command: str) -> None:
    with Redis.from_url(url, socket_timeout=2) as client:
        client.execute_command(*command)


@contextmanager
def _set(url: str, name: str, value: str, healthy: str) -> Iterator[None]:
    with suppress(RedisError):
        _redis(url, "CONFIG", "SET", name, value)
    try:
        yield
    finally:
        with suppress(RedisError):
            _redis(url, "CONFIG", "SET", name, healthy)
