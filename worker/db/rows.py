"""Rows of a host application that say who answers: the ledger locks, asks and moves them in its own transaction."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from worker.db.borrowed import Borrowed
from worker.events import Received
from worker.redirects import Outcome, State


class Found(NamedTuple):
    """What the host has done by itself since: recorded as if an event had asked for it."""

    event: Received
    state: State
    outcome: Outcome


class Held(Protocol):
    """The locked rows of one batch."""

    def settle(self, states: Mapping[str, State | None], clock: datetime) -> Iterator[Found]:
        """What the host has decided since; asked once, before any event. `clock` is the database's."""
        ...

    def decide(self, state: State | None, event: Received, occurred_at: datetime) -> tuple[State, Outcome]:
        """As `worker.redirects.fold`. Raises Rejected."""
        ...

    def write(self, states: Mapping[str, State], moved: Sequence[str]) -> None:
        """Bring the rows up to these states; `moved` are those whose version grew."""
        ...


class Rows(Protocol):
    """Where the rows are."""

    def lock(self, connection: Connection | Borrowed, ids: Sequence[str]) -> Held:
        """Lock those of these conversations (ordered by id) that there are, before the ledger locks its states."""
        ...
