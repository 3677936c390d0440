"""The gateway: events and reads over HTTP, the live channel, the page. `uvicorn worker.gateway.app:app` runs it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from config.settings import settings
from worker.errors import Permanent, Transient
from worker.gateway import demo, events, health, metrics, page, pages, reads, sockets
from worker.gateway.door import KnownHosts
from worker.gateway.jwks import KeysAway
from worker.gateway.live import Live, client

log = structlog.get_logger(__name__)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with client(settings().url("redis_url")) as redis:
        app.state.redis, app.state.places = redis, sockets.Places()
        app.state.live = Live(redis, pages.snapshot, pages.missed)
        running = asyncio.create_task(app.state.live.run())
        # So that the first socket is not told of an outage.
        with suppress(TimeoutError):
            await asyncio.wait_for(app.state.live.subscribed.wait(), 1)
        yield
        running.cancel()
        await asyncio.wait([running])


# FastAPI's own /docs loads its scripts from a CDN: without a network it is blank.
app = FastAPI(title="Redirect worker", lifespan=_lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
app.add_middleware(KnownHosts)
app.add_api_route("/events", events.post_events, methods=["POST"], **events.ROUTE)
for part in (health, metrics, reads, page, demo):
    app.include_router(part.router)
app.router.routes.append(sockets.ROUTE)


@app.exception_handler(Transient)
async def _away(_: Request, error: Transient) -> JSONResponse:
    log.warning("something does not answer", action="request_refused", error=str(error))
    who = (
        "the keys of REDIRECT_JWT_JWKS cannot be read now"
        if isinstance(error, KeysAway)
        else "the database does not answer"
    )
    detail = f"{who}: try again soon"
    return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "2"})


@app.exception_handler(RequestValidationError)
async def _wrong(_: Request, error: RequestValidationError) -> JSONResponse:
    """As FastAPI's own, without the value: it may be half a surrogate pair, which no answer can hold."""
    said = [{name: one[name] for name in ("type", "loc", "msg")} for one in error.errors()]
    return JSONResponse({"detail": said}, status_code=422)


@app.exception_handler(Permanent)
async def _no_such_value(_: Request, error: Permanent) -> JSONResponse:
    """What passes for a value here, and is none for PostgreSQL."""
    return JSONResponse({"detail": str(error).splitlines()[0]}, status_code=422)
