"""The Redis that the AI reads and the live channel uses (REDIS_URL): made on first use, never shared across a fork."""

import os
from collections.abc import Sequence
from functools import lru_cache

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from config.settings import settings
from worker.errors import Permanent, Transient
from worker.redirects import State

# Seconds. A copy that hangs is a copy that is tried again: the row waits, not the process.
TIMEOUT = 1.0


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


def execute(pipeline: Pipeline, states: Sequence[State]) -> dict[str, Exception]:
    """Run a pipeline of one command per state: the error of each that failed. Raises Transient when Redis is away."""
    try:
        answers = pipeline.execute(raise_on_error=False)
    except RedisError as error:
        raise judged(error) from error
    pairs = zip(states, answers, strict=True)
    return {state.conversation_id: judged(answer) for state, answer in pairs if isinstance(answer, RedisError)}


def judged(error: RedisError) -> Permanent | Transient:
    """What to do next: a key that holds another type needs a person; loading, read-only, full or gone will pass."""
    wrong_key = isinstance(error, ResponseError) and "WRONGTYPE" in str(error)
    return (Permanent if wrong_key else Transient)(str(error) or type(error).__name__)


os.register_at_fork(after_in_child=client.cache_clear)
