"""`/demo/messages`: the chat of worker/gateway/chat.py, where `up` runs."""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, StringConstraints

from config.settings import settings
from worker.gateway.door import KnownReader

if TYPE_CHECKING:
    from worker.gateway.chat import Chat


async def _only_in_development(_: KnownReader) -> None:
    if not settings().development:
        raise HTTPException(404, "only `redirect-worker up` plays with customers")


router = APIRouter(include_in_schema=False, dependencies=[Depends(_only_in_development)])

NO_NUL = r"^[^\x00]+$"


class Said(BaseModel):
    """What a customer says. NUL is refused because no event can hold it."""

    conversation_id: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
    text: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=NO_NUL)]


@cache
def _chat() -> "Chat":
    from worker.gateway.chat import Chat

    return Chat()


@router.get("/demo/messages")
async def messages(
    conversation_id: Annotated[str, Query(min_length=1, max_length=64, pattern=NO_NUL)],
) -> dict[str, Any]:
    """The messages of a conversation, and whether the AI may speak in it."""
    return await _chat().shown(conversation_id)


@router.post("/demo/messages", status_code=202)
async def say(said: Said) -> dict[str, int]:
    """Speak as the customer."""
    return {"id": _chat().hear(said.conversation_id, said.text)}
