"""When a failed side effect is tried again, and when it is not. Pure: no clock, no chance, no Celery."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class RetryIn:
    """The task itself tries again after so many seconds (Celery shows RETRY)."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Park:
    """The row waits so many seconds for the sweep."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No schedule tries again."""


@dataclass(frozen=True)
class Policy:
    """One kind of side effect: its task, its schedule in seconds, and what giving up means.

    `quick` are the waits that the task itself makes; then the row is parked, first for `park_first`, doubling up to
    `park_longest`, for `park_total` altogether. `given_up` is `dead` (a person must look) or `done` (the copy needs
    no repair: a browser that reconnects gets a snapshot).
    """

    task: str
    quick: tuple[float, ...]
    park_first: float
    park_longest: float
    park_total: float
    given_up: Literal["dead", "done"] = "dead"

    @cached_property
    def steps(self) -> tuple[float, ...]:
        """Every wait in seconds, in order: after failure n, wait `steps[n - 1]`."""
        return self.quick + tuple(self._parked())

    @cached_property
    def steps_in_sql(self) -> str:
        """`steps` as a literal of PostgreSQL's float8[]. An ARRAY[...] of 300 numbers takes it 1.5 ms to parse."""
        return "{" + ",".join(map(str, self.steps)) + "}"

    def _parked(self) -> Iterator[float]:
        wait, total = self.park_first, 0.0
        while total < self.park_total:
            yield wait
            total += wait
            wait = min(wait * 2, self.park_longest)


def next_step(policy: Policy, failures: int) -> RetryIn | Park | GiveUp:
    """What to do after `failures` (>= 1) attempts in a row have failed."""
    if failures > len(policy.steps):
        return GiveUp()
    seconds = policy.steps[failures - 1]
    return RetryIn(seconds) if failures <= len(policy.quick) else Park(seconds)


# In the order in which they are rung: first the copy that people watch, which is also the quickest to write.
POLICIES = {
    "websocket": Policy("notify_websocket", (0.2, 1, 3), 15, MINUTE, 10 * MINUTE, given_up="done"),
    "cache": Policy("update_cache", (0.2, 1, 3, 10), 30, 5 * MINUTE, 24 * HOUR),
    "record": Policy("save_conversation", (1, 3, 10, 30), MINUTE, 15 * MINUTE, 72 * HOUR),
}
