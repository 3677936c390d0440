"""The reads over HTTP: the inbox, one conversation, its story."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from starlette.convertors import PathConvertor, register_url_convertor

from config.settings import NotConfigured, settings
from worker import app as _celery  # noqa: F401 - ring sends through the application that this makes
from worker import hosts
from worker.db import history, inbox, retry
from worker.db.session import engine
from worker.errors import Transient
from worker.gateway import activity, cached, pages
from worker.gateway.bounded import ask
from worker.gateway.door import KnownReader, Operator
from worker.gateway.reads_openapi import (
    PROBLEMS,
    Activity,
    Conversation,
    Destination,
    Inbox,
    Rung,
    Timeline,
    problems,
)
from worker.gateway.views import Reader, Unseen, View
from worker.tasks.doorbell import ring

_threads = ThreadPoolExecutor(2, thread_name_prefix="read")
_bells = ThreadPoolExecutor(1, thread_name_prefix="ring")


async def _private(response: Response) -> None:
    """Who may see it is decided at each request: nothing on the way may keep it."""
    response.headers["Cache-Control"] = "no-store"


class _Text(PathConvertor):
    """Any id, with slashes and line feeds: Starlette's `path` ends at the latter."""

    regex = "(?s:.*)"


register_url_convertor("text", _Text())
router = APIRouter(dependencies=[Depends(_private)], responses=PROBLEMS)

TEXT = r"^[^\x00]+$"
ConversationId = Annotated[str, Path(max_length=64, pattern=TEXT)]
OwnerId = Annotated[str | None, Query(min_length=1, max_length=200, pattern=TEXT)]
DestinationName = Annotated[str | None, Query(min_length=1, max_length=200, pattern=TEXT)]
After = Annotated[str | None, Query(max_length=1000, description="The `next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/destinations", response_model=list[Destination])
async def destinations() -> list[dict[str, str]]:
    """Where a conversation can be redirected to. Needs no token."""
    return [{"value": value, "label": label} for value, label in settings().destinations.items()]


@router.get("/conversations", response_model=Inbox, responses=problems(403, 422))
async def conversations(
    reader: KnownReader,
    owner_id: OwnerId = None,
    destination: DestinationName = None,
    status: Literal["active", "support_active"] | None = None,
    behind: bool = False,
    limit: Limit = 50,
    after: After = None,
) -> dict[str, Any]:
    """The conversations that the token shows, those that moved last first."""
    view = _view(reader, owner_id)
    wanted = inbox.Wanted(view.owner_ids, view.conversation_ids, destination, status, behind)
    place = _place(after)
    rows = await ask(lambda: inbox.page(engine(), wanted, place, limit + 1), _threads)
    return _page("conversations", rows, limit)


# An id may hold a slash. What has something behind the id has to come before the one that has not.
@router.get("/conversations/{conversation_id:text}/redirects", response_model=Timeline, responses=problems(404, 422))
async def redirects(
    reader: KnownReader, conversation_id: ConversationId, limit: Limit = 50, after: After = None
) -> dict[str, Any]:
    """What was asked of this conversation and what became of it, the newest first; what was refused, too."""
    place = _place(after)
    owner, rows = await ask(lambda: history.timeline(engine(), conversation_id, place, limit + 1), _threads)
    if not _may_see(reader, conversation_id, owner, rows):
        raise _unknown(conversation_id)
    following = pages.cursor(rows[limit - 1], "received_at", "id") if len(rows) > limit else None
    return {"redirects": rows[:limit], "next": following}


@router.post(
    "/conversations/{conversation_id:text}/retry",
    status_code=202,
    response_model=Rung,
    responses=problems(403, 404, 422),
)
async def retry_now(reader: Operator, conversation_id: ConversationId) -> dict[str, Any]:
    """Have the copies that are behind tried again now, dead ones too. What shares a row with them is tried as well."""
    owner = await ask(lambda: history.owner(engine(), conversation_id), _threads)
    if owner is None or not reader.view.shows(owner["owner_id"], conversation_id):
        raise _unknown(conversation_id)
    kinds = await ask(lambda: retry.now(engine(), conversation_id), _threads)
    # The rows are due now. Where the broker is not known or does not answer, the sweep rings.
    with suppress(NotConfigured, Transient):
        await ask(lambda: ring(kinds, "retry now"), _bells)
    return {"rung": kinds}


@router.get("/conversations/{conversation_id:text}", response_model=Conversation, responses=problems(404, 422))
async def conversation(request: Request, reader: KnownReader, conversation_id: ConversationId) -> dict[str, Any]:
    """The state, its copies, the side effects that are behind, and the newest redirects.

    `cache_status` says what is known of `cache`: `present`, `absent`, `unreadable` (then it is the text that is there),
    or `unreachable`.
    """
    found = await ask(lambda: hosts.conversation(conversation_id), _threads)
    if found is None or not reader.view.shows(found["state"]["owner_id"], conversation_id):
        raise _unknown(conversation_id)
    return {**found} | await cached.read(request.app.state.redis, conversation_id)


@router.get("/activity", response_model=Activity, responses=problems(403))
async def lately(reader: KnownReader) -> dict[str, Any]:
    """Redirects that were applied in each of the last 30 minutes, by destination, and what is behind now."""
    if not reader.view.everything:
        raise HTTPException(403, 'this counts everybody\'s conversations: the token should say "owner_ids": ["*"]')
    return await ask(lambda: activity.read(engine()), _threads)


def _view(reader: Reader, owner_id: str | None) -> View:
    try:
        view = reader.view.of(owner_id)
        pages.check(view)
    except (Unseen, ValueError) as error:
        raise HTTPException(403, str(error)) from None
    return view


def _place(after: str | None) -> inbox.Place | None:
    try:
        return None if after is None else pages.place(after)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def _page(name: str, rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return {name: rows[:limit], "next": pages.cursor(rows[limit - 1]) if len(rows) > limit else None}


def _may_see(reader: Reader, conversation_id: str, owner: Mapping[str, Any] | None, story: Sequence[object]) -> bool:
    """`owner` is None where nothing was ever applied: then only who sees everything sees what was refused."""
    if owner is None:
        return bool(story) and reader.view.everything
    return reader.view.shows(owner["owner_id"], conversation_id)


def _unknown(conversation_id: str) -> HTTPException:
    return HTTPException(404, f"there is no conversation {conversation_id!r}")
