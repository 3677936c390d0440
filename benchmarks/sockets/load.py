"""What both systems are asked to do: so many sockets, so many updates, each with what is known before the run."""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from benchmarks.services import Database
from worker.hosts import bundled
from worker.redirects import State

# Files that a server or the listeners have open besides their sockets: libraries, logs, connections to the stores.
OTHER_FILES = 200
# Seconds of one turn besides opening the sockets and publishing, and sockets that are opened per second: estimates.
AROUND, OPENED_PER_SECOND = 9.0, 250
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_FILL = """
    INSERT INTO conversation_states
        (conversation_id, owner_id, status, ai_enabled, destination, version, occurred_at, event_id)
    SELECT owner || '-' || n, owner::text, 'support_active', false, 'billing', 1, now(), 'before'
    FROM generate_series(0, %s - 1) AS owner, generate_series(0, %s - 1) AS n
"""


class Update(NamedTuple):
    """One frame of the contract. Its `event_id` is its place among all updates, by which listeners tell it."""

    owner: int
    text: str


@dataclass(frozen=True)
class Load:
    """`per_owner`: so many sockets each owner has open, and so many conversations. `rate`: updates per second."""

    sockets: int = 5_000
    per_owner: int = 5
    rate: float = 200.0
    seconds: float = 20.0

    @property
    def owners(self) -> int:
        return self.sockets // self.per_owner

    @property
    def turn_seconds(self) -> float:
        """How long one turn of one system will take, about."""
        return AROUND + self.sockets / OPENED_PER_SECOND + self.seconds

    def listeners(self, owner: int) -> range:
        """The numbers of the owner's sockets."""
        return range(owner * self.per_owner, (owner + 1) * self.per_owner)

    def updates(self) -> Sequence[Update]:
        """Of one owner after the other, of one conversation after the other: a conversation's version always rises."""
        return [self._update(number) for number in range(int(self.rate * self.seconds))]

    def _update(self, number: int) -> Update:
        turn, owner = divmod(number, self.owners)
        earlier, conversation = divmod(turn, self.per_owner)
        state = State(
            conversation_id=f"{owner}-{conversation}",
            owner_id=str(owner),
            destination=("ai", "billing")[earlier % 2],
            version=2 + earlier,
            occurred_at=_BEGIN + timedelta(milliseconds=number),
            event_id=str(number),
        )
        return Update(owner, bundled.frame(state))

    def fill(self, database: Database) -> None:
        """The conversations that snapshots show."""
        with database.connection.cursor() as cursor:
            cursor.execute(_FILL, (self.owners, self.per_owner))
            cursor.execute("ANALYZE conversation_states")


def possible(asked: Load) -> Load:
    """`asked`, with fewer sockets where the limit on open files says so. Raises this process's soft limit, which all
    processes that it starts inherit.
    """
    soft, hard = (sys.maxsize if one == resource.RLIM_INFINITY else one for one in resource.getrlimit(_FILES))
    limit = min(hard, max(soft, asked.sockets + OTHER_FILES))
    if limit > soft:
        resource.setrlimit(_FILES, (limit, resource.getrlimit(_FILES)[1]))
    sockets = min(asked.sockets, limit - OTHER_FILES)
    return replace(asked, sockets=sockets - sockets % asked.per_owner)


_FILES = resource.RLIMIT_NOFILE
