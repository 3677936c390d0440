"""The gateway: events and reads over HTTP, the live channel for browsers. `uvicorn worker.gateway.app:app` runs it."""

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path as File
from typing import Annotated, Any
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI, HTTPException, Path, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from config.settings import settings
from worker.db import history
from worker.db.session import engine
from worker.errors import Transient
from worker.gateway import events
from worker.gateway.bounded import ask
from worker.gateway.live import BACKLOG, Feed, Live, Snapshot, client
from worker.redirects import State
from worker.redis_client import key
from worker.tasks import websocket

log = structlog.get_logger(__name__)

# Reads ask for no token, so only this machine may ask, and no page of the web through a browser on this machine:
# neither by a name that resolves to 127.0.0.1 (the Host header), nor by opening a WebSocket (the Origin header).
LOOPBACK = ("127.0.0.1", "localhost")
# Together as many as the engine has connections. Apart: when all sockets want a snapshot, reads still find a thread.
_reads = ThreadPoolExecutor(2, thread_name_prefix="read")
_snapshots = ThreadPoolExecutor(2, thread_name_prefix="snapshot")

DOCS = File(__file__).with_name("docs.html")

ConversationId = Annotated[str, Path(max_length=64, pattern=r"^[^\x00]+$")]
OwnerId = Annotated[str | None, Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with client(settings().url("redis_url")) as redis:
        app.state.redis, app.state.live = redis, Live(redis, _read_snapshot)
        running = asyncio.create_task(app.state.live.run())
        # So that the first socket gets one snapshot, not a second one when the subscription comes.
        with suppress(TimeoutError):
            await asyncio.wait_for(app.state.live.subscribed.wait(), 1)
        yield
        running.cancel()
        await asyncio.wait([running])


# FastAPI's own /docs loads its scripts from a CDN: without a network it is blank.
app = FastAPI(title="Redirect worker", lifespan=_lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
app.add_api_route("/events", events.post_events, methods=["POST"], **events.ROUTE)


@app.exception_handler(Transient)
async def _database_away(_: Request, error: Transient) -> JSONResponse:
    log.warning("the database does not answer", action="request_refused", error=str(error))
    detail = "the database does not answer: try again soon"
    return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "2"})


@app.get("/docs", include_in_schema=False)
async def docs() -> FileResponse:
    return FileResponse(DOCS, media_type="text/html")


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives; whatever it depends on."""
    return {"status": "ok"}


@app.get("/destinations")
async def destinations() -> list[dict[str, str]]:
    """Where a conversation can be redirected to."""
    return [{"value": value, "label": label} for value, label in settings().destinations.items()]


# An id may hold a slash. A route with something behind the id has to come before this one.
@app.get("/conversations/{conversation_id:path}")
async def conversation(request: Request, conversation_id: ConversationId) -> dict[str, Any]:
    """The state, its copies, the side effects that are behind, and the newest redirects.

    `cache_status` says what is known of `cache`: `present`, `absent`, `unreadable` (then it is the text that is there),
    or `unreachable`.
    """
    found = await ask(lambda: history.conversation(engine(), conversation_id), _reads)
    if found is None:
        raise HTTPException(404, f"there is no conversation {conversation_id!r}")
    return found | await _cached(request.app.state.redis, conversation_id)


@app.websocket("/ws")
async def live(socket: WebSocket, owner_id: OwnerId = None) -> None:
    """A snapshot, then updates (contract, section 3.6).

    A snapshot comes again after an outage of Redis and when a client was too slow: what it says replaces what was said
    before. While the database is away updates go on, and the snapshot follows when it is back.
    """
    # owner_id narrows what is shown, and protects nothing: it is to come from a token.
    if _stranger(socket.headers.get("origin")):
        await socket.close(1008)
        return
    with suppress(WebSocketDisconnect), socket.app.state.live.feed(owner_id) as feed:
        await socket.accept()
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send(socket, feed))
            await _until_gone(socket)
            sending.cancel()


async def _read_snapshot(owner_id: str | None) -> Snapshot:
    """The states that moved last, of one owner or of all."""
    return await ask(lambda: _snapshot(history.newest(engine(), owner_id, BACKLOG)), _snapshots)


def _snapshot(rows: list[dict[str, Any]]) -> Snapshot:
    conversations = [_item(row) for row in rows]
    text = json.dumps({"type": "snapshot", "conversations": conversations})
    return Snapshot(text, {item["conversation_id"]: item["version"] for item in conversations})


def _item(row: dict[str, Any]) -> dict[str, Any]:
    """A conversation as in its live frame, without the type."""
    state = State(**{name: row[name] for name in State.__slots__})
    return {name: value for name, value in json.loads(websocket.frame(state)).items() if name != "type"}


async def _cached(redis: Redis, conversation_id: str) -> dict[str, Any]:
    try:
        value = await redis.get(key(conversation_id))
    except RedisError:
        return {"cache": None, "cache_status": "unreachable"}
    if value is None:
        return {"cache": None, "cache_status": "absent"}
    try:
        return {"cache": _strict(value), "cache_status": "present"}
    except (ValueError, RecursionError):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        return {"cache": text, "cache_status": "unreadable"}


def _strict(value: bytes | str) -> object:
    """What the JSON in `value` says. Raises ValueError for what no answer of ours can hold: NaN, half a character."""
    said: object = json.loads(value)
    json.dumps(said, allow_nan=False, ensure_ascii=False).encode()
    return said


def _stranger(origin: str | None) -> bool:
    """Whether a page from elsewhere opens this socket."""
    try:
        return origin is not None and urlsplit(origin).hostname not in LOOPBACK
    except ValueError:
        return True


async def _send(socket: WebSocket, feed: Feed) -> None:
    with suppress(WebSocketDisconnect):
        while True:
            await socket.send_text(await feed.next())


async def _until_gone(socket: WebSocket) -> None:
    """Nothing that a client says is listened to."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
