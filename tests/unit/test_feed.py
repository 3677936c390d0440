"""What one socket is sent, in which order, and how little of it is kept."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from worker.errors import Transient
from worker.gateway import feed as feeds
from worker.gateway.feed import BACKLOG, Feed, Frame, Snapshot
from worker.gateway.views import View


def frame(version: int, conversation_id: str = "c1") -> Frame:
    return Frame(conversation_id, "7", version, f"{conversation_id} {version}")


class Client:
    """A socket that is read when `reads` is set, and a database that answers."""

    def __init__(self, view: View | None = None, versions: dict[str, int] | None = None) -> None:
        self.got: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.versions = versions or {}
        self.failures = 0
        self.snapshots = 0
        self.feed = Feed(view or View(), self._read, self._send)

    async def _send(self, text: str) -> None:
        await self.reads.wait()
        self.got.append(text)

    async def _read(self, view: View) -> Snapshot:
        self.snapshots += 1
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise Transient("away")
        return Snapshot(json.dumps({"snapshot": self.snapshots}), self.versions)

    async def has(self, *texts: str) -> None:
        async with asyncio.timeout(10):
            while self.got[-len(texts) :] != list(texts):  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.001)


def run(act: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await act()

    asyncio.run(bounded())


def test_frames_that_a_snapshot_holds_are_not_sent_behind_it() -> None:
    """What is published while the snapshot is read waits, and only what is newer than it follows."""

    async def act() -> None:
        client = Client(versions={"c1": 2, "c2": 1})
        client.feed.fall_behind()
        client.feed.offer(frame(2, "c1"))
        client.feed.offer(frame(2, "c2"))
        client.feed.offer(frame(1, "c3"))
        await client.has('{"snapshot": 1}', "c2 2", "c3 1")
        assert len(client.got) == 3

    run(act)


def test_a_slow_client_gets_the_newest_of_each_conversation() -> None:
    """Its backlog holds one frame for each, however many come."""

    async def act() -> None:
        client = Client()
        client.reads.clear()
        for version in range(1, 1001):
            client.feed.offer(frame(version))
            client.feed.offer(frame(version, "c2"))
            await asyncio.sleep(0)
        client.reads.set()
        await client.has("c2 1000", "c1 1000")
        assert len(client.got) <= 4

    run(act)


def test_a_backlog_that_is_full_gives_way_to_a_snapshot() -> None:
    """Too many conversations for one backlog are a snapshot, and what comes after it."""

    async def act() -> None:
        client = Client()
        client.reads.clear()
        client.feed.offer(frame(1, "first"))
        await asyncio.sleep(0)
        for number in range(BACKLOG + 1):
            client.feed.offer(frame(1, f"c{number}"))
        client.reads.set()
        await client.has("first 1", '{"snapshot": 1}', f"c{BACKLOG} 1")

    run(act)


def test_without_a_database_frames_go_on_and_the_snapshot_follows() -> None:
    """A snapshot that cannot be had is tried again, and holds nothing up."""

    async def act() -> None:
        feeds.SNAPSHOT_WAITS, before = (0.01, 0.02), feeds.SNAPSHOT_WAITS
        try:
            client = Client()
            client.failures = 3
            client.feed.fall_behind()
            client.feed.offer(frame(1))
            await client.has("c1 1")
            await client.has("c1 1", '{"snapshot": 4}')
        finally:
            feeds.SNAPSHOT_WAITS = before

    run(act)


def test_a_conversation_that_the_view_does_not_name_is_not_sent() -> None:
    """Of an owner's conversations only those that the token names."""

    async def act() -> None:
        client = Client(View(frozenset(["7"]), frozenset(["c2"])))
        client.feed.offer(frame(1, "c1"))
        client.feed.offer(frame(1, "c2"))
        await client.has("c2 1")
        assert client.got == ["c2 1"]

    run(act)


def test_an_idle_feed_has_no_task() -> None:
    """Thousands of sockets that wait cost thousands of small objects, and no task each."""

    async def act() -> None:
        client = Client()
        client.feed.fall_behind()
        client.feed.offer(frame(1))
        await client.has("c1 1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert client.feed._at_work is None

    run(act)
