"""HTTP as uvicorn speaks it, with an end to what never becomes a request, and to a body that turns out to be none."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds for the head of a request, from the connection or its first byte: else a socket is held for nothing.
HEAD_WITHIN = 10.0


class Http(H11Protocol):
    """One connection."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            self._wait()
        super().data_received(data)
        # Between requests uvicorn has a time of its own; a head that has begun is in what h11 could not read yet.
        if self.conn.their_state is not h11.IDLE or not self.conn.trailing_data[0]:
            self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP. In the middle of a request that ends the request too: there is nobody to be answered.

        uvicorn lets the application answer all the same, which h11 takes for a bug of ours, as it does a body for HEAD.
        """
        answerable = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if answerable:
            asked_for_none = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] == "HEAD"
            super().send_400_response("" if asked_for_none else msg)
        else:
            self.transport.close()

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_WITHIN, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
