"""A TCP proxy before one server, whose weather a test makes: latency, slow drip, black hole, reset, refusal."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

# What one read takes; a drip takes less, so that it is even.
CHUNK = 65_536


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything to `port` there. As a context manager: until it ends.

    `latency` is seconds before each chunk of bytes, `rate` bytes per second, both in each direction; they may be
    changed at any time. `unanswered` counts what `swallow_answer` has done.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.latency, self.rate = 0.0, 0.0
        self.unanswered = 0
        self._question, self._questions = b"", 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._gates: list[asyncio.Event] = []
        self._do(self._new_gate())
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # The weather.

    def heal(self) -> None:
        """Fair weather again; what a black hole has swallowed arrives."""
        self.latency, self.rate = 0.0, 0.0
        self._do(self._open_all())
        self._do(self._listen())

    def black_hole(self) -> None:
        """Connections are taken, and nothing passes in either direction, as behind a firewall that has forgotten us."""
        self._loop.call_soon_threadsafe(self._gates[-1].clear)

    def strand(self) -> None:
        """A black hole for the connections that are there; new ones pass. What is under way arrives late."""
        self.black_hole()
        self._do(self._new_gate())

    def reset(self) -> None:
        """End all connections with RST; new ones are welcome."""
        self._do(self._abort())

    def refuse(self) -> None:
        """No new connection, and none of the old ones."""
        self._do(self._refuse())

    def swallow_answer(self, question: bytes) -> None:
        """Pass on the next words that contain `question`; once they are answered, end that connection instead."""
        self._question, self._questions = question, 1

    # In the loop's thread.

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _new_gate(self) -> None:
        """Connections pass by the gate that was the newest when they came."""
        self._gates.append(asyncio.Event())
        self._gates[-1].set()

    async def _open_all(self) -> None:
        for gate in self._gates:
            gate.set()
        del self._gates[:-1]

    async def _listen(self) -> None:
        if not self._server.is_serving():
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        self._server.close()
        await self._abort()

    async def _abort(self) -> None:
        for writer in list(self._writers):
            with suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends, gate = [writer], self._gates[-1]
        try:
            await gate.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(back)
            self._writers.update(ends)
            asked = asyncio.Event()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, back, gate, asks=asked))
                both.create_task(self._pump(there, writer, gate, answers=asked))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one end has gone, and takes the other along
        finally:
            self._tasks.discard(task)
            self._writers.difference_update(ends)
            for end in ends:
                end.transport.abort() if end.transport.is_closing() else end.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        asks: asyncio.Event | None = None,
        answers: asyncio.Event | None = None,
    ) -> None:
        while data := await reader.read(max(1, int(self.rate / 10)) if self.rate else CHUNK):
            if asks and self._questions and self._question in data:
                self._questions -= 1
                asks.set()
            if answers and answers.is_set():
                self.unanswered += 1
                break
            if self.latency:
                await asyncio.sleep(self.latency)
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
            await gate.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # so that the other direction ends too
