"""The chat that `up` plays with: customers who are typed, a workflow that redirects, an AI that asks before it speaks.

The answers are canned, everything around them is real: the redirect travels as any other, and the AI asks twice. The
messages are this process's memory and nothing else: the newest of each of the newest conversations, until it ends.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import count
from typing import Any, Literal, TypeVar

import structlog

from config.settings import settings
from worker.client import Permit, RedirectClient, ai_permit
from worker.db import history
from worker.db.session import engine
from worker.errors import Transient
from worker.gateway.chat_rules import answer, wished

log = structlog.get_logger(__name__)
T = TypeVar("T")

# Seconds. The AI writes for longer than the workflow thinks: so a reply that is on its way can be overtaken.
THINKING, WRITING = 1.0, 3.0
# Seconds for which a page that asks again and again is told the same.
FRESH = 1.0
# What is kept: messages of a conversation, and conversations. And what is at work at the same time.
MESSAGES, CONVERSATIONS, AT_ONCE = 200, 200, 100

From = Literal["customer", "ai", "workflow", "note"]
Sleep = Callable[[float], Awaitable[object]]


@dataclass
class Message:
    """One line of a conversation. A reply that is `writing` ends as `sent`, or `discarded`."""

    id: int
    conversation_id: str
    sender: From
    text: str
    state: Literal["sent", "writing", "discarded"] = "sent"
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def shown(self) -> dict[str, Any]:
        fields = asdict(self)
        return {"from": fields.pop("sender"), **fields}


class Chat:
    """All conversations. Lives on one event loop; what blocks is done by threads of its own."""

    def __init__(self, sleep: Sleep = asyncio.sleep) -> None:
        self._sleep, self._ids = sleep, count(1)
        self._messages: dict[str, deque[Message]] = {}
        self._told: dict[str, tuple[float, bool, str]] = {}
        self._at_work: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="demo-chat")

    def hear(self, conversation_id: str, text: str) -> int:
        """A customer's message, and its number; it is answered and perhaps redirected later."""
        heard = self._put(conversation_id, "customer", text)
        if len(self._at_work) < AT_ONCE:
            self._start(conversation_id, self._reply(conversation_id, text))
            self._start(conversation_id, self._redirect(conversation_id, text))
        else:
            self._put(conversation_id, "note", "too many messages at once: nobody reads this one")
        return heard.id

    async def shown(self, conversation_id: str) -> dict[str, Any]:
        """The messages, and whether the AI may speak, at most FRESH seconds old."""
        at, allowed, says = self._told.get(conversation_id, (float("-inf"), False, ""))
        if time.monotonic() - at > FRESH:
            permit, says = await self._in_thread(lambda: permitted(conversation_id))
            allowed = self._note_permit(conversation_id, permit, says)
        messages = [message.shown() for message in self._messages.get(conversation_id, ())]
        return {"messages": messages, "ai": {"allowed": allowed, "says": says}}

    async def _reply(self, conversation_id: str, text: str) -> None:
        permit, says = await self._in_thread(lambda: permitted(conversation_id))
        if not self._note_permit(conversation_id, permit, says):
            self._put(conversation_id, "note", says)
            return
        reply = self._put(conversation_id, "ai", answer(text), "writing")
        await self._sleep(WRITING)
        reply.state = "sent" if await self._in_thread(permit.still_valid) else "discarded"
        log.info("the demo's AI has written", action=f"demo_reply_{reply.state}", conversation_id=conversation_id)

    async def _redirect(self, conversation_id: str, text: str) -> None:
        await self._sleep(THINKING)
        if (destination := wished(text, settings().destinations)) is None:
            return
        try:
            await self._in_thread(lambda: _send(conversation_id, destination, text))
        except Transient as error:
            self._put(conversation_id, "note", f"the workflow could not redirect: {error}")
            return
        self._put(conversation_id, "workflow", f"handed to {_label(destination)}")

    def _note_permit(self, conversation_id: str, permit: Permit, says: str) -> bool:
        self._told.pop(conversation_id, None)
        self._told[conversation_id] = (time.monotonic(), permit.allowed, says)
        if len(self._told) > CONVERSATIONS:
            del self._told[next(iter(self._told))]
        return permit.allowed

    def _put(
        self, conversation_id: str, sender: From, text: str, state: Literal["sent", "writing"] = "sent"
    ) -> Message:
        message = Message(next(self._ids), conversation_id, sender, text, state)
        kept = self._messages.pop(conversation_id, None) or deque(maxlen=MESSAGES)
        self._messages[conversation_id] = kept  # the newest conversation is the last
        kept.append(message)
        if len(self._messages) > CONVERSATIONS:
            del self._messages[next(iter(self._messages))]
        return message

    def _start(self, conversation_id: str, work: Coroutine[Any, Any, None]) -> None:
        async def told() -> None:
            try:
                await work
            except Exception as error:
                log.exception("the demo's chat failed", action="demo_failed", conversation_id=conversation_id)
                self._put(conversation_id, "note", f"something went wrong here: {error}")

        task = asyncio.get_running_loop().create_task(told())
        self._at_work.add(task)  # or it may be collected half way
        task.add_done_callback(self._at_work.discard)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def permitted(conversation_id: str) -> tuple[Permit, str]:
    """Whether the AI may speak, and why, in words. Blocks as `ai_permit` does."""
    permit = ai_permit(conversation_id)
    if permit:
        return permit, "The AI answers: it has this conversation."
    if permit.source == "nowhere":
        return permit, "The AI stays silent: it cannot be known who has this conversation."
    return permit, f"The AI stays silent: {_holder(conversation_id)} has this conversation."


def _holder(conversation_id: str) -> str:
    try:
        found = history.conversation(engine(), conversation_id, 1)
    except Transient:
        found = None
    return _label(found["state"]["destination"]) if found else "a team"


def _label(destination: str) -> str:
    return settings().destinations.get(destination, destination)


def _send(conversation_id: str, destination: str, text: str) -> None:
    actor = {"type": "workflow", "id": "demo"}
    _client().redirect(
        conversation_id, destination, source="demo/workflow", actor=actor, reason=f"customer said: {text[:200]}"
    )


@cache
def _client() -> RedirectClient:
    return RedirectClient(settings().url("broker_url"))
