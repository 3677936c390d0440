"""The process that holds the sockets: `python -m benchmarks.sockets.listeners_loop` answers a line with a line of JSON.

The first line is what to open; its answer comes when every socket has its snapshot. Then `count`, or `report`.
"""

import asyncio
import functools
import gc
import json
import sys
import time
from typing import Any

from benchmarks.sockets.wire import Socket, handshake

# Sockets that wait for their snapshot at a time: a server that is asked for all at once measures its queue.
AT_ONCE = 50
OPEN_WITHIN = 240.0
SNAPSHOT, UPDATE = "snapshot", "conversation_updated"


class Listeners:
    def __init__(self, port: int, compression: bool) -> None:
        self._port, self._compression = port, compression
        self._free = asyncio.Semaphore(AT_ONCE)
        self._snapshots: dict[int, asyncio.Future[None]] = {}
        # Socket, event_id, and when it came (CLOCK_MONOTONIC, which all processes share).
        self.received: list[tuple[int, str, float]] = []
        self.closed: list[str] = []

    async def open(self, tokens: list[str], per_owner: int) -> float:
        """Open `per_owner` sockets with each token; returns the seconds until the last snapshot."""
        began = time.perf_counter()
        async with asyncio.timeout(OPEN_WITHIN), asyncio.TaskGroup() as group:
            for number in range(len(tokens) * per_owner):
                group.create_task(self._open(number, tokens[number // per_owner]))
        return time.perf_counter() - began

    async def _open(self, number: int, token: str) -> None:
        heard, lost = functools.partial(self._heard, number), functools.partial(self._lose, number)
        async with self._free:
            loop = asyncio.get_running_loop()
            self._snapshots[number] = loop.create_future()
            request = handshake(self._port, token, self._compression)
            await loop.create_connection(lambda: Socket(request, heard, lost), "127.0.0.1", self._port)
            await self._snapshots[number]

    def _heard(self, number: int, text: bytes, now: float) -> None:
        frame = json.loads(text)
        if frame["type"] == UPDATE:
            self.received.append((number, frame["event_id"], now))
        elif frame["type"] == SNAPSHOT and not frame["conversations"]:
            self._lose(number, "a snapshot without conversations")
        elif frame["type"] == SNAPSHOT and not self._snapshots[number].done():
            self._snapshots[number].set_result(None)

    def _lose(self, number: int, why: str) -> None:
        self.closed.append(why)
        if not self._snapshots[number].done():
            self._snapshots[number].set_exception(ConnectionError(why))


async def main() -> None:
    """Until the other end hangs up."""
    asked = json.loads(await _line())
    listeners = Listeners(asked["port"], asked["compression"])
    _answer({"seconds": await listeners.open(asked["tokens"], asked["per_owner"])})
    gc.collect()
    gc.disable()  # a pause here would be counted as the server's
    while line := await _line():
        found: dict[str, Any] = {"frames": len(listeners.received)}
        _answer(found | ({"received": listeners.received, "closed": listeners.closed} if line == "report" else {}))


async def _line() -> str:
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 - read by the benchmark


if __name__ == "__main__":
    asyncio.run(main())
