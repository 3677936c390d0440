"""The application whose conversations these are: where it keeps who answers, and how its copies are written.

A host is a module of this package with a HOST, chosen by REDIRECT_HOST; docs/hosts.md walks through another one.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

from sqlalchemy import Engine

from config.settings import settings
from worker.db import history
from worker.db.borrowed import Borrowed
from worker.db.control import Control, control
from worker.db.ledger import Ledger
from worker.db.rows import Rows
from worker.db.session import engine
from worker.effects import Effect
from worker.errors import Permanent
from worker.policy import POLICIES
from worker.redis_client import key


@dataclass(frozen=True)
class Host:
    """How copies are written (an Effect for each kind), and what else is the host's own. All but the effects has the
    default that fits an application without a word in it: the states of the contract are the truth.

    `rows`: rows of the host that say who answers; the ledger moves them in its own transaction.
    `control`: who answers in a conversation, by the truth.
    `cache_key`, `cache_value`: where the AI reads, and what the bytes there say; the latter raises ValueError.
    `cache_is_ours`: whether `ai_permit` may believe the cache: nobody else writes it.
    `shown_record`: the record of a conversation, for people who look; None is that of the table `conversations`.
    `tend`: asked at each sweep; `noticed`: ids whose rows the host has changed by itself, asked at each comparison.
    `on_apply`: asked in the host's own process, in the transaction of each `apply_in`.
    `checks`: for `redirect-worker doctor`: a name, whether all is well, and what to know or do.
    `marks`: what the log's lines begin with, by their action.
    """

    cache: Effect
    websocket: Effect
    record: Effect
    rows: Rows | None = None
    control: Callable[[Engine, str], Control] = control
    cache_key: Callable[[str], str] = key
    cache_value: Callable[[Any], Any] = json.loads
    cache_is_ours: bool = True
    shown_record: Callable[[Engine, str], Mapping[str, Any] | None] | None = None
    tend: Callable[[Engine], Collection[str]] | None = None
    noticed: Callable[[Engine], Collection[str]] | None = None
    on_apply: Callable[[Borrowed], None] = lambda _: None
    checks: Callable[[Engine], Iterator[tuple[str, bool, str]]] | None = None
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def effects(self) -> tuple[Effect, Effect, Effect]:
        return self.websocket, self.cache, self.record


def ledger(where: Borrowed | None = None) -> Ledger:
    """The ledger of this process, or of somebody else's connection, with the host's rows."""
    conf = settings()
    return Ledger(where or engine(), conf.destinations, tuple(POLICIES), conf.max_clock_skew, rows=host().rows)


def conversation(conversation_id: str) -> dict[str, Any] | None:
    """State, record, side effects that are behind, and the newest redirects; None if unknown. Raises Transient."""
    found = history.conversation(engine(), conversation_id)
    if found is not None and (record := host().shown_record) is not None:
        found["record"] = record(engine(), conversation_id)
    return found


@lru_cache(maxsize=1)
def host() -> Host:
    """The host of this process. Raises Permanent."""
    name = settings().host
    try:
        made: Host = import_module(f"{__name__}.{name}").HOST
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise Permanent(f"REDIRECT_HOST={name} needs the extra [{name}]: {error}") from error
        raise Permanent(f"REDIRECT_HOST={name}: there is no worker/hosts/{name}.py") from error
    return made
