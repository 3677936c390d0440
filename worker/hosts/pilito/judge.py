"""Whose word counts when the host's row and our state differ: a person's, or a stale save's. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from worker.redirects import AI, State, status_of

# Seconds after a redirect at which its row and its flag are looked at.
CHECKS = (2.0, 10.0, 45.0)

ACTIVE, SUPPORT = status_of(AI), status_of("support")
# Of the host's four statuses, those that say nothing of who answers next: a workflow runs, or the conversation is over.
MARKETING, CLOSED = "marketing_active", "closed"

Verdict = Literal["agrees", "write", "reassert", "adopt", "closed"]


@dataclass(frozen=True)
class Guard:
    """What is watched after a redirect: its version, the row's status before it (None: there was no row), since when,
    when it is looked at next (None: once there is a row), and whether the row was set right already.
    """

    conversation_id: str
    version: int
    before: str | None
    since: datetime
    due_at: datetime | None
    reasserted: bool = False

    @property
    def stale(self) -> set[str | None]:
        """What the row shows where somebody has saved what they had read before the redirect.

        A workflow that had read `marketing_active` puts `active` back when it ends.
        """
        return {self.before, ACTIVE} if self.before == MARKETING else {self.before}

    def next(self, clock: datetime) -> datetime | None:
        """When to look again; None when the last look was made."""
        dues = (self.since + timedelta(seconds=seconds) for seconds in CHECKS)
        return next((due for due in dues if due > clock), None)


def judge(status: str, state: State, guard: Guard | None) -> Verdict:
    """What to do about a row that shows `status` while the state is `state`.

    `guard` is that of the state's version, if it is still watched. A row that went back to what it was before is a
    stale save, once; whatever else it shows, or shows again, is a person's decision.
    """
    if status == state.status:
        return "agrees"
    if guard is not None and guard.before is None:
        return "write"
    if guard is not None and status in guard.stale and not guard.reasserted:
        return "reassert"
    if status in (ACTIVE, SUPPORT):
        return "adopt"
    return "closed" if status == CLOSED and guard is not None else "agrees"


def destination_of(status: str) -> str:
    """Where a conversation is whose row was changed by the host: it does not say to which people."""
    return AI if status == ACTIVE else "support"
