"""What happens to a Redis that is there: full, read-only, loading; its clients cut off or told to wait."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis, RedisError

from tests.eventually import eventually
from worker import embedded

# Keys that a Redis has to load, and the microseconds that it takes over each.
KEYS, EACH = 300, 20_000


@contextmanager
def full(redis: Redis) -> Iterator[None]:
    """No memory is left: it refuses whatever would take some."""
    redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        redis.config_set("maxmemory", 0)


@contextmanager
def read_only(redis: Redis) -> Iterator[None]:
    """A replica, as after a failover that went past us; of a master that is not there, so that it keeps its data."""
    redis.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        redis.replicaof("NO", "ONE")


def load(redis: Redis, folder: Path) -> None:
    """Make it load the data of another, for seconds; then it is a master again, with that data. Its own is gone."""
    url = embedded.start(folder, ["cache"])["cache"]
    try:
        with Redis.from_url(url) as other:
            other.config_set("repl-diskless-sync-delay", 0)
            other.mset({f"key-{number}": "x" * 100 for number in range(KEYS)})
        redis.config_set("primaryauth", urlsplit(url).password or "")
        redis.config_set("key-load-delay", EACH)
        redis.config_set("loading-process-events-interval-bytes", 1024)
        redis.replicaof("127.0.0.1", urlsplit(url).port)
        eventually(lambda: says(redis, "loading"), within=60)
        eventually(lambda: not says(redis, "loading"), within=60)
        redis.replicaof("NO", "ONE")
        redis.config_set("key-load-delay", 0)
    finally:
        embedded.stop(folder)


def says(redis: Redis, word: str) -> bool:
    """Whether it refuses to answer with this word."""
    try:
        redis.get("nothing")
    except RedisError as error:
        return word in str(error).lower()
    return False


def storm(redis: Redis, seconds: float, every: float = 0.5) -> int:
    """Cut off all clients but this one, again and again; how often."""
    times, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for kind in ("normal", "pubsub"):
            redis.client_kill_filter(_type=kind, skipme=True)
        times += 1
        time.sleep(every)
    return times
