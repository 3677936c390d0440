"""A browser that never gives up: it watches all conversations, connects again, and remembers every version."""

import json
import threading
import time
from contextlib import suppress
from typing import Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect


class Watcher:
    """`versions` of each conversation as shown now; `backwards`: what one connection was told older than before."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._url = f"ws://127.0.0.1:{port}/ws"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self.versions: dict[str, int] = {}
        self.backwards: list[str] = []
        self.connections = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _watch(self) -> None:
        while not self._ended.is_set():
            with (
                suppress(OSError, WebSocketException, EOFError),
                connect(self._url, proxy=None, open_timeout=5, close_timeout=1) as live,
            ):
                self.connections += 1
                self._follow(live)
            self._ended.wait(0.2)

    def _follow(self, live: ClientConnection) -> None:
        here: dict[str, int] = {}
        while not self._ended.is_set():
            with suppress(TimeoutError):
                message = json.loads(live.recv(timeout=0.2))
                for shown in message.get("conversations", [message]):
                    if "version" in shown:
                        self._see(here, shown["conversation_id"], shown["version"])

    def _see(self, here: dict[str, int], conversation_id: str, version: int) -> None:
        if version < here.get(conversation_id, 0):
            self.backwards.append(f"{conversation_id}: {version} after {here[conversation_id]} at {time.time():.0f}")
        here[conversation_id] = version
        self.versions[conversation_id] = max(version, self.versions.get(conversation_id, 0))
