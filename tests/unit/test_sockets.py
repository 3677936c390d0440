"""A live socket that comes to its end for two reasons at once."""

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket

from worker.gateway import sockets


def test_what_is_refused_after_the_socket_was_closed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was closed by us, as too slow, when what it had said was read: there is no second close frame."""
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def serve(socket: WebSocket, _: str | None) -> None:
        await socket.close()
        raise sockets.Refused(1008, "a message should be a JSON object")

    monkeypatch.setattr(sockets, "_serve", serve)
    scope = {"type": "websocket", "headers": [], "query_string": b"", "subprotocols": []}
    asyncio.run(sockets.live(WebSocket(scope, receive, send)))
    assert sent == ["websocket.accept", "websocket.close"]
