"""What the live channel asks the database for when Redis is back."""

import asyncio
import time
from collections.abc import Sequence

from tests.service import Service
from worker.gateway.feed import Frame, Snapshot
from worker.gateway.live import UNNOTICED, Live, client
from worker.gateway.views import View


def test_all_of_the_outage_is_asked_for(service: Service) -> None:
    """However long ago Redis was heard last, and some seconds before that: until then nobody knew that it was away."""
    asked: list[float] = []

    async def run() -> None:
        async def snapshot(_: View) -> Snapshot:
            return Snapshot("{}", {})

        async def missed(seconds: float, _: int) -> Sequence[Frame]:
            asked.append(seconds)
            return [Frame("c1", "7", 2, "moved")]

        texts: asyncio.Queue[str] = asyncio.Queue()
        async with client(service.redis_url) as redis:
            live = Live(redis, snapshot, missed)
            live._heard = time.monotonic() - 3600
            with live.feed(View(frozenset(["7"])), texts.put):
                running = asyncio.create_task(live.run())
                async with asyncio.timeout(10):
                    told = [await texts.get() for _ in range(4)]
                running.cancel()
        assert told == ["{}", '{"type":"paused"}', '{"type":"live"}', "moved"]

    asyncio.run(run())
    assert 3600 + UNNOTICED <= asked[0] < 3610 + UNNOTICED
