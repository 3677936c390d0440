"""The Redis that the AI reads and the live channel uses (REDIS_URL): made on first use, never shared across a fork."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from config.settings import settings
from worker.errors import Permanent, Transient
from worker.redirects import State

# Seconds. A copy that hangs is a copy that is tried again: the row waits, not the process.
TIMEOUT = 1.0
# States in one command. Redis does nothing else meanwhile: some milliseconds.
CHUNK = 500


@lru_cache(maxsize=1)
def client() -> Redis:
    """This process's client. Raises config.settings.NotConfigured.

    redis-py 8 waits 5 s and tries 10 times by default. Here one silent reconnect covers a connection that died while
    idle; everything else is the schedule's business.
    """
    return Redis.from_url(
        settings().url("redis_url"),
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1, supported_errors=(Unreachable,)),
    )


def key(conversation_id: str) -> str:
    """Where the AI reads who owns a conversation (contract, section 3.5)."""
    return f"ai_control_{conversation_id}"


def run(
    script: str,
    states: Sequence[State],
    values: Callable[[State], Sequence[str | bytes]],
    keys: Callable[[State], Sequence[str]] | None,
) -> dict[str, Exception]:
    """Run `script` over `states`: the error of each that failed. Raises Transient when Redis is away.

    The script finds the `keys` in KEYS and the `values` in ARGV, as many for each. It returns pairs of a position,
    from 1, and an error. One command for hundreds, not a pipeline of one for each: redis-py takes longer to write and
    read a command than Redis to do it.
    """
    errors: dict[str, Exception] = {}
    for start in range(0, len(states), CHUNK):
        chunk = states[start : start + CHUNK]
        named = [key for state in chunk for key in keys(state)] if keys else []
        for at, error in _eval(script, named, [value for state in chunk for value in values(state)]):
            errors[chunk[at - 1].conversation_id] = judged(error)
    return errors


def mget(keys: Sequence[str]) -> list[bytes | None]:
    """The values; None where there is no key, and where it holds another type. Raises Transient."""
    try:
        chunks = [client().mget(keys[start : start + CHUNK]) for start in range(0, len(keys), CHUNK)]
    except RedisError as error:
        raise judged(error) from error
    return [value for chunk in chunks for value in cast("list[bytes | None]", chunk)]


def exchange(name: str, number: int) -> int | None:
    """Leave `number` under `name`; the number that was there, or None. Raises Transient or Permanent."""
    try:
        there = client().set(name, number, get=True)
        return None if there is None else int(cast("bytes", there))
    except RedisError as error:
        raise judged(error) from error
    except ValueError:
        return None


def _eval(script: str, keys: Sequence[str], values: Sequence[str | bytes]) -> list[tuple[int, RedisError]]:
    try:
        answer: Any = client().eval(script, len(keys), *keys, *values)
    except RedisError as error:
        raise judged(error) from error
    return [(at, ResponseError(said.decode(errors="replace"))) for at, said in answer]


def judged(error: RedisError) -> Permanent | Transient:
    """What to do next: a key that holds another type needs a person; loading, read-only, full or gone will pass."""
    wrong_key = isinstance(error, ResponseError) and "WRONGTYPE" in str(error)
    return (Permanent if wrong_key else Transient)(str(error) or type(error).__name__)


os.register_at_fork(after_in_child=client.cache_clear)
