"""A WebSocket client (RFC 6455, RFC 7692) of as little as does: thousands must not take the cores from the server."""

import asyncio
import base64
import os
import time
import zlib
from collections.abc import Callable
from typing import cast

# The first byte of a frame: FIN and the opcode. The servers here send whole messages.
TEXT, COMPRESSED, CLOSE, PING = 0x81, 0xC1, 0x88, 0x89
# What every browser offers, and what stands at the end of each message and is not sent (RFC 7692, 7.2.1).
DEFLATE, TAIL = "permessage-deflate; client_max_window_bits", b"\x00\x00\xff\xff"
# FIN, pong, and the bit that says "masked": the mask is four zero bytes, which leave the content as it is.
PONG, MASKED, MASK = 0x8A, 0x80, bytes(4)


def handshake(port: int, token: str, compression: bool) -> bytes:
    """What a page on `port` of this machine would ask, with its token as a subprotocol; compression offered or not."""
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Origin: http://127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        f"Sec-WebSocket-Protocol: redirect.v1, bearer.{token}",
    ]
    if compression:
        lines.append(f"Sec-WebSocket-Extensions: {DEFLATE}")
    return "\r\n".join((*lines, "\r\n")).encode()


def take(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take the first frame out of what a server has sent: its first byte and its content. None: it is not all there."""
    if len(buffer) < 2:
        return None
    size, start = buffer[1], 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(buffer[2:start], "big")
    if len(buffer) < start + size:
        return None
    frame = buffer[0], bytes(buffer[start : start + size])
    del buffer[: start + size]
    return frame


class Socket(asyncio.Protocol):
    """Hands each text on to `heard`, with the time when it came; whatever ends it goes to `lost`."""

    __slots__ = ("_buffer", "_heard", "_inflater", "_lost", "_request", "_transport", "_upgraded")

    def __init__(self, request: bytes, heard: Callable[[bytes, float], None], lost: Callable[[str], None]) -> None:
        self._request, self._heard, self._lost = request, heard, lost
        self._buffer = bytearray()
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._buffer += data
        if not self._upgraded and not self._upgrade():
            return
        while (frame := take(self._buffer)) is not None:
            self._take(*frame, now)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(f"the connection has ended: {error!r}")

    def _upgrade(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if end and not head.startswith(b"HTTP/1.1 101 "):
            self._lost(head.decode(errors="replace"))
            self._transport.abort()
        elif end:
            self._buffer, self._upgraded = rest, True
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if b"permessage-deflate" in head else None
        return self._upgraded

    def _take(self, first: int, content: bytes, now: float) -> None:
        if first == TEXT:
            self._heard(content, now)
        elif first == COMPRESSED and self._inflater is not None:
            self._heard(self._inflater.decompress(content + TAIL), now)
        elif first == PING:
            self._transport.write(bytes((PONG, MASKED | len(content))) + MASK + content)
        else:
            self._lost(f"the server has sent {first:#x} {content!r}")
            self._transport.abort()
