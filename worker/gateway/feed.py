"""What one socket still has to be sent: a bounded lot, of each conversation only the newest."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import structlog

from worker.errors import Transient
from worker.gateway.views import View

log = structlog.get_logger(__name__)

# Conversations. As many as a snapshot has: a longer backlog costs more than the snapshot that replaces it.
BACKLOG = 200
# Seconds between attempts at a snapshot, doubling from the first to the second.
SNAPSHOT_WAITS = (0.5, 15.0)


class Frame(NamedTuple):
    """One message of the channel: what the fan-out must know, and the text that goes to sockets unchanged."""

    conversation_id: str
    owner_id: str | None
    version: int
    text: str
    traceparent: object = None


class Snapshot(NamedTuple):
    """The frame that a socket gets first, and the version of each conversation in it."""

    text: str
    versions: Mapping[str, int]


ReadSnapshot = Callable[[View], Awaitable[Snapshot]]
"""Reads the newest states of a view. Raises Transient in bounded time when the database is away."""
Send = Callable[[str], Awaitable[None]]
"""Sends a text; waits while the client does not read. Raises when it is gone."""


class Feed:
    """Sends what is offered, in a task that is there only while there is something to send.

    Thousands of sockets are idle at any moment.
    """

    __slots__ = ("_again", "_at_work", "_backlog", "_behind", "_failures", "_notes", "_read_snapshot", "_send", "view")

    def __init__(self, view: View, read_snapshot: ReadSnapshot, send: Send) -> None:
        self.view = view
        self._read_snapshot, self._send = read_snapshot, send
        self._notes: list[str] = []
        self._backlog: dict[str, Frame] = {}
        self._behind = False
        self._failures = 0
        self._at_work: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    def offer(self, frame: Frame) -> None:
        """Take a frame that was just published; never waits. A full backlog gives way to a snapshot."""
        if self.view.conversation_ids is not None and not self.view.shows(frame.owner_id, frame.conversation_id):
            return
        if len(self._backlog) >= BACKLOG and frame.conversation_id not in self._backlog:
            self._backlog.clear()
            self.fall_behind()
        self._backlog[frame.conversation_id] = frame
        self._work()

    def tell(self, text: str) -> None:
        """Send `text` after the snapshot that is due, before the frames that wait."""
        self._notes.append(text)
        self._work()

    def fall_behind(self) -> None:
        """Note that frames may be missing: a snapshot is sent."""
        self._failures = 0
        self._behind = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._work()

    def close(self) -> None:
        """Send nothing more."""
        if self._again is not None:
            self._again.cancel()
        if self._at_work is not None:
            self._at_work.cancel()

    def _work(self) -> None:
        if self._at_work is None:
            self._at_work = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while (text := await self._next()) is not None:
                await self._send(text)
        except Exception:  # noqa: BLE001 - the client is gone, and whoever reads from it clears up
            return
        self._at_work = None

    async def _next(self) -> str | None:
        """The next text; None when there is nothing to send now."""
        while True:
            if self._behind and self._again is None:
                if (text := await self._catch_up()) is not None:
                    return text
            elif self._notes:
                return self._notes.pop(0)
            elif self._backlog:
                return self._backlog.pop(next(iter(self._backlog))).text
            else:
                return None

    async def _catch_up(self) -> str | None:
        """A snapshot. Frames wait meanwhile, or the snapshot could take back what they said; if there is none, they go
        on and it is tried again later.
        """
        self._behind = False  # before the read: what happens from now on may be missing in it
        try:
            snapshot = await self._read_snapshot(self.view)
        except Transient as error:
            self._postpone(error)
            return None
        for conversation_id, frame in list(self._backlog.items()):
            if frame.version <= snapshot.versions.get(conversation_id, 0):
                del self._backlog[conversation_id]
        return snapshot.text

    def _postpone(self, error: Transient) -> None:
        self._behind = True
        wait = backoff(self._failures, SNAPSHOT_WAITS)
        self._again = asyncio.get_running_loop().call_later(wait, self._try_again)
        if not self._failures:
            log.warning("no snapshot for a socket: tried again", action="snapshot_postponed", error=str(error))
        self._failures += 1

    def _try_again(self) -> None:
        self._again = None
        self._work()


def backoff(failures: int, waits: tuple[float, float]) -> float:
    """Seconds until the next attempt: doubling, and different for each, so that they do not all come at once."""
    first, longest = waits
    chance = random.uniform(0.5, 1)  # noqa: S311 - chance, not a secret
    return min(longest, first * 2.0 ** min(failures, 16)) * chance
