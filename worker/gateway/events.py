"""`POST /events`: what is valid goes into the outbox, the rest into rejected_events, and then it is answered."""

import asyncio
import hmac
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import structlog
from fastapi import Depends, HTTPException, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from config.settings import settings
from worker.effects import TOLD_ONE_BY_ONE
from worker.gateway import events_openapi
from worker.gateway import receipt as receipts
from worker.gateway.bounded import ask
from worker.gateway.door import reader_of
from worker.gateway.tokens import NoToken
from worker.gateway.views import SEND, View
from worker.messages import LARGEST_BODY

log = structlog.get_logger(__name__)

# What a page of the web cannot send here: a browser asks first (CORS) for any of these, and is not allowed to.
CONTENT_TYPES = tuple(events_openapi.CONTENT)
# Seconds for the whole body: one that drips in holds a connection and its memory.
BODY_WITHIN = 10.0
# Seconds for the database: longer than for a read, because ten thousand events may come at once.
PATIENCE = 5.0
# An answer before the body has been read ends the connection, or the rest of the body would be read as a request.
CLOSE = {"Connection": "close"}

# Work of the processor alone, one body at a time: the loop goes on beside it, and no database holds it up.
_reader = ThreadPoolExecutor(1, thread_name_prefix="body")
_writes = ThreadPoolExecutor(2, thread_name_prefix="events")
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="producer",
    description='One of REDIRECT_HTTP_TOKENS, or a JSON Web Token whose scope says "send"; none where no key is set.',
)


async def _sender(given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> View:
    """Whose conversations the bearer may redirect. Raises 401 and 403."""
    shown = given.credentials if given else ""
    if _is_producer(shown) or not (settings().http_tokens or settings().asks_for_tokens):
        return View()
    try:
        reader = await reader_of(shown) if settings().asks_for_tokens else None
    except NoToken as error:
        raise _nobody(f"a bearer token of REDIRECT_HTTP_TOKENS is needed, or one that may send: {error}") from None
    if reader is None:
        raise _nobody("a bearer token of REDIRECT_HTTP_TOKENS is needed")
    if not reader.may(SEND):
        raise HTTPException(403, 'the scope of the token should say "send"', CLOSE)
    return reader.view


def _is_producer(shown: str) -> bool:
    given = shown.encode("latin-1", "replace")
    # All of them: the time it takes must not tell which token came close.
    same = [hmac.compare_digest(given, token.get_secret_value().encode()) for token in settings().http_tokens or ()]
    return any(same)


def _nobody(why: str) -> HTTPException:
    return HTTPException(401, why, CLOSE | {"WWW-Authenticate": "Bearer"})


async def post_events(request: Request, view: Annotated[View, Depends(_sender)]) -> JSONResponse:
    """One event, an array of events, or CloudEvents 1.0 (structured, batch, or binary with `ce-` headers).

    The answer comes once everything is durably stored, `accepted` for the worker and `rejected` with its reason. What
    becomes of an accepted event is decided afterwards, and shown by `/conversations/{conversation_id}`. After a 503, or
    no answer at all, the events may be stored or not. Sending them again with the same `event_id` is safe; give them
    their `occurred_at`, or the second time is another event.
    """
    _check_type(request.headers)
    body = await _body(request)
    headers = {name.decode("latin-1"): value.decode("utf-8", "surrogateescape") for name, value in request.headers.raw}
    loop = asyncio.get_running_loop()
    receipt = await loop.run_in_executor(_reader, receipts.read, body, headers)
    if (stranger := receipt.not_shown_by(view)) is not None:
        raise HTTPException(403, f"the token does not show this owner or conversation: {stranger}")
    await ask(receipt.keep, _writes, PATIENCE)
    answer = await loop.run_in_executor(_reader, receipt.answer)
    if not answer["accepted"]:
        return JSONResponse({"detail": "none of the events can be accepted"} | answer, 422)
    _tell(answer["accepted"])
    return JSONResponse(answer, 202)


def _tell(event_ids: list[str]) -> None:
    if len(event_ids) > TOLD_ONE_BY_ONE:
        log.info("events stored", action="event_stored", events=len(event_ids))
        return
    for event_id in event_ids:
        log.info("event stored", action="event_stored", event_id=event_id)


ROUTE: dict[str, Any] = {"status_code": 202, **events_openapi.DESCRIPTION}


def _check_type(headers: Mapping[str, str]) -> None:
    if headers.get("content-type", "").split(";")[0].strip().lower() not in CONTENT_TYPES:
        raise HTTPException(415, f"the Content-Type should be one of: {', '.join(CONTENT_TYPES)}", CLOSE)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body should come without a Content-Encoding", CLOSE)


async def _body(request: Request) -> bytes:
    """The whole body. Raises 413 for too many bytes and 408 for too many seconds."""
    if int(request.headers.get("content-length", 0)) > LARGEST_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise _too_large()
    except TimeoutError:
        raise HTTPException(408, f"the body should be here within {BODY_WITHIN:g} s", CLOSE) from None
    except ClientDisconnect:  # nobody hears this, but an error of ours it is not
        raise HTTPException(400, "the connection ended before the body") from None
    return bytes(body)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body should be at most {LARGEST_BODY} bytes: send the events in parts", CLOSE)
