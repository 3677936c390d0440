"""Who comes in: by which name we were called, from which page, and with which token."""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from config.settings import LOOPBACK, settings
from worker.gateway.bounded import ask
from worker.gateway.tokens import NoToken, tokens
from worker.gateway.views import ANYBODY, OPERATE, Reader

# Where the keys come from an address, one waits for it; and no more than one at a time.
_verifier = ThreadPoolExecutor(1, thread_name_prefix="keys")
_bearer = HTTPBearer(
    auto_error=False, scheme_name="reader", description="A JSON Web Token. Where no key is set, none is asked for."
)


class KnownHosts:
    """Refuses requests to another name than ours: a page of the web could have its own name resolve to our address."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _is_ours(f"//{Headers(scope=scope).get('host', '')}"):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008)(scope, receive, send)
        else:
            detail = "called by a name that is not in REDIRECT_HOSTS"
            await JSONResponse({"detail": detail}, 400)(scope, receive, send)


def stranger(origin: str | None) -> bool:
    """Whether a page from elsewhere opens this socket. A client that is no browser sends no Origin."""
    return origin is not None and not _is_ours(origin)


def _is_ours(url: str) -> bool:
    try:
        return urlsplit(url).hostname in (*LOOPBACK, *(settings().hosts or ()))
    except ValueError:
        return False


async def reader_of(token: str | None) -> Reader:
    """Who brings `token`. Raises NoToken, and Transient when the keys cannot be had."""
    if not settings().asks_for_tokens:
        return ANYBODY
    if not token:
        raise NoToken("a token is needed")
    if settings().jwt_jwks is None:
        return tokens().reader(token)
    return await ask(lambda: tokens().reader(token), _verifier)


async def _reader(given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Reader:
    """Raises 401 for anybody without a valid token, where there is a key."""
    try:
        return await reader_of(given.credentials if given else None)
    except NoToken as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None


async def operator(reader: Annotated[Reader, Depends(_reader)]) -> Reader:
    """Raises 403 for a token whose scope does not say `operate`."""
    if not reader.may(OPERATE):
        raise HTTPException(403, 'the scope of the token should say "operate"')
    return reader


KnownReader = Annotated[Reader, Depends(_reader)]
Operator = Annotated[Reader, Depends(operator)]
