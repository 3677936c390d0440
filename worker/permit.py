"""May the AI speak in this conversation? Asked before it generates, and again right before it sends."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any, Literal, TypeVar

from worker.errors import Transient

# An application imports this: how it logs is its own business.
log = logging.getLogger(__name__)

T = TypeVar("T")
# Whether the AI may speak, and in which version that was so.
_Told = tuple[bool, int]

# Seconds for each place that is asked. A frozen server and a resolver that hangs give no error at all.
REDIS_PATIENCE, DATABASE_PATIENCE = 1.0, 2.0


@dataclass(frozen=True)
class Permit:
    """Whether the AI may speak; true when it may.

    `version` is that of the conversation then: 0 for one that was never redirected, None when it is not known.
    """

    conversation_id: str
    allowed: bool
    version: int | None
    source: Literal["cache", "database", "nowhere"]

    def __bool__(self) -> bool:
        return self.allowed

    def still_valid(self) -> bool:
        """Whether nothing has changed since, by the database. False when it cannot be asked. Never raises."""
        if not self.allowed:
            return False
        return _of_database(self.conversation_id) == (True, self.version)


def ai_permit(conversation_id: str) -> Permit:
    """Ask the cache, else the database; when both are away, the AI may not. Within 3 s. Never raises."""
    if (told := _of_cache(conversation_id)) is not None:
        return Permit(conversation_id, *told, "cache")
    if (told := _of_database(conversation_id)) is not None:
        return Permit(conversation_id, *told, "database")
    return Permit(conversation_id, allowed=False, version=None, source="nowhere")


def _of_cache(conversation_id: str) -> _Told | None:
    """None when the key is missing or says nothing that can be believed, or when Redis is away."""
    # Imported here, and before the clock runs: producers pay for neither Redis nor SQLAlchemy.
    from worker.hosts import host
    from worker.redis_client import client, key

    if not host().cache_is_ours:
        return None
    value = _asked("cache", REDIS_PATIENCE, lambda: client().get(key(conversation_id)))
    return None if value is None else _read(value)


def _read(value: Any) -> _Told | None:
    try:
        copy = json.loads(value)
    except (ValueError, RecursionError):
        return None
    enabled, version = (copy.get("ai_enabled"), copy.get("version")) if isinstance(copy, dict) else (None, None)
    if not isinstance(enabled, bool) or type(version) is not int or version < 1:  # True is an int, too
        return None
    return enabled, version


def _of_database(conversation_id: str) -> _Told | None:
    """None when it is away."""
    from worker.db.session import engine
    from worker.hosts import host

    return _asked("database", DATABASE_PATIENCE, lambda: _twice(lambda: host().control(engine(), conversation_id)))


def _twice(ask: Callable[[], T]) -> T:
    """At once again where it can help: a pooled connection may have died while it was idle."""
    try:
        return ask()
    except Transient:
        return ask()


def _asked(where: str, patience: float, question: Callable[[], T]) -> T | None:
    """The answer; None after `patience` seconds, or whatever went wrong: who cannot know must not let the AI speak."""
    future: Future[T] = Future()

    def ask() -> None:
        try:
            future.set_result(question())
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            future.set_exception(error)

    Thread(target=ask, daemon=True, name=f"ai-permit-{where}").start()
    try:
        return future.result(patience)
    except Exception as error:  # noqa: BLE001 - also a setting that is wrong, or an id that no database can hold
        log.warning("the %s does not say whether the AI may speak: %s", where, str(error) or f"{patience:g} s passed")
        return None
