"""`/ws`: the handshake, the token, and what a client may say afterwards (docs/gateway.md)."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from config.settings import settings
from worker.errors import Transient
from worker.gateway import pages
from worker.gateway.descriptors import most_sockets
from worker.gateway.door import reader_of, stranger
from worker.gateway.feed import Feed
from worker.gateway.tokens import NoToken
from worker.gateway.views import Reader, Unseen, View

PROTOCOL, BEARER = "redirect.v1", "bearer."
# Seconds for the first message, where the token comes in it.
TOKEN_WITHIN = 5.0
# Messages at once, and per second after that. A client has a token to bring and pages to ask for.
BURST, PER_SECOND = 50, 5.0

MALFORMED, NO_TOKEN, NOT_SHOWN, TOO_MANY, TRY_LATER = 4400, 4401, 4403, 4429, 1013


class Refused(Exception):
    """The socket is closed with this code, and the reason in words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


async def live(socket: WebSocket) -> None:
    """A snapshot, then updates."""
    if stranger(socket.headers.get("origin")) or set(socket.query_params) - {"owner_id"}:
        await socket.close(1008)  # before it is accepted: the handshake is answered with 403
        return
    offered = socket.scope["subprotocols"]
    await socket.accept(PROTOCOL if PROTOCOL in offered else None)
    with suppress(WebSocketDisconnect, WebSocketDisconnected):  # by the other side; or by us, for another reason
        try:
            await _serve(socket, next((one[len(BEARER) :] for one in offered if one.startswith(BEARER)), None))
        except Refused as refused:
            # As much as a close frame holds: 123 bytes (RFC 6455, section 5.5).
            await socket.close(refused.code, str(refused).encode()[:123].decode(errors="ignore"))


# Starlette's own: what FastAPI keeps for a route with parameters, it keeps for each open socket.
ROUTE = WebSocketRoute("/ws", live)


async def _serve(socket: WebSocket, token: str | None) -> None:
    reader = await _reader(socket, token)
    view = _view(socket, reader)
    with _places(socket).taken(reader.token), socket.app.state.live.feed(view, socket.send_text) as feed:
        try:
            async with asyncio.timeout(_seconds_left(reader)):
                await _listen(socket, view, feed)
        except TimeoutError:
            raise Refused(NO_TOKEN, "the token has ended: connect again with a fresh one") from None


async def _reader(socket: WebSocket, token: str | None) -> Reader:
    try:
        if token is None and settings().asks_for_tokens:
            async with asyncio.timeout(TOKEN_WITHIN):
                token = await _first_message(socket)
        return await reader_of(token)
    except TimeoutError:
        raise Refused(NO_TOKEN, f"no token came within {TOKEN_WITHIN:g} s") from None
    except NoToken as error:
        raise Refused(NO_TOKEN, str(error)) from None
    except Transient:  # why is for the log: whoever has no token yet learns nothing of the inside
        raise Refused(TRY_LATER, "tokens cannot be judged now: try again soon") from None


async def _first_message(socket: WebSocket) -> str:
    said = _message(await _receive(socket))
    if said.get("type") != "authenticate" or not isinstance(said.get("token"), str):
        raise Refused(NO_TOKEN, 'the first message should be {"type": "authenticate", "token": "…"}')
    return str(said["token"])


def _view(socket: WebSocket, reader: Reader) -> View:
    try:
        view = reader.view.of(socket.query_params.get("owner_id"))
        pages.check(view)
    except (Unseen, ValueError) as error:
        raise Refused(NOT_SHOWN, str(error)) from None
    return view


def _seconds_left(reader: Reader) -> float | None:
    return None if reader.expires == float("inf") else max(0.0, reader.expires - time.time())


async def _listen(socket: WebSocket, view: View, feed: Feed) -> None:
    """Answer what the client says until it goes."""
    allowance = Allowance(BURST, PER_SECOND, time.monotonic)
    while True:
        said = _message(await _receive(socket))
        if not allowance.one_more():
            raise Refused(TOO_MANY, f"at most {BURST} messages at once, and {PER_SECOND:g} per second")
        match said:
            case {"type": "page", "after": str() as after}:
                feed.tell(await _page(view, after))
            case {"type": "authenticate"}:
                pass  # where no key is set, a client that has a token need not know
            case _:
                raise Refused(MALFORMED, 'a message should be {"type": "page", "after": "…"}')


async def _page(view: View, after: str) -> str:
    try:
        return await pages.older(view, after)
    except ValueError as error:
        raise Refused(MALFORMED, str(error)) from None
    except Transient:
        return json.dumps({"type": "page", "conversations": [], "next": after})  # to be asked for again


async def _receive(socket: WebSocket) -> str:
    said = await socket.receive()
    if said["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(said["code"])
    return said.get("text") or ""  # bytes are no message of ours


def _message(text: str) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        said = json.loads(text)
        if isinstance(said, dict):
            return said
    raise Refused(MALFORMED, "a message should be a JSON object")


class Allowance:
    """So many at once, and so many per second after that."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._left, self._at = float(burst), clock()

    def one_more(self) -> bool:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        self._left -= 1
        return self._left >= 0


class Places:
    """The open sockets, of which one token and one process have only so many."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self.open = 0

    @contextmanager
    def taken(self, token: str | None) -> Iterator[None]:
        """A place until the block ends. Raises Refused."""
        if self.open >= (most := most_sockets()):
            raise Refused(TRY_LATER, f"{most} sockets are open (REDIRECT_SOCKETS, or the limit of open files)")
        if token and self._taken[token] >= settings().sockets_per_token:
            raise Refused(TOO_MANY, f"this token has {settings().sockets_per_token} sockets already")
        self._count(token, 1)
        try:
            yield
        finally:
            self._count(token, -1)

    def _count(self, token: str | None, change: int) -> None:
        self.open += change
        if token:
            self._taken[token] += change
            if not self._taken[token]:
                del self._taken[token]


def _places(socket: WebSocket) -> Places:
    places: Places = socket.app.state.places
    return places
