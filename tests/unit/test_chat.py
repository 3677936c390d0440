"""The demo's customers: what its workflow reads out of a message, and how little is kept."""

import asyncio

import pytest

from config.settings import DESTINATIONS
from worker.errors import Transient
from worker.gateway import chat
from worker.gateway.chat import Chat
from worker.gateway.chat_rules import OTHERWISE, answer, wished
from worker.permit import Permit


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("I want a human", "support"),
        ("a person, please, not the bot", "support"),
        ("می‌خواهم با یک انسان صحبت کنم", "support"),
        ("پشتيبان", "support"),  # with Arabic's yeh, as many keyboards write it
        ("Where is my refund?", "billing"),
        ("back to the bot", "ai"),
        ("What are your opening hours?", None),
        ("humane", None),
    ],
)
def test_a_wish_is_understood(text: str, destination: str | None) -> None:
    """In English and in Persian, by whole words; what asks for nothing is left to the AI."""
    assert wished(text, DESTINATIONS) == destination


def test_only_destinations_that_there_are_are_wished_for() -> None:
    """A catalogue without billing gets no redirect to it."""
    assert wished("my refund", {"ai": "AI"}) is None


def test_answers_are_canned() -> None:
    """The same question has the same answer, and there is one for everything."""
    assert "9:00" in answer("When do you open?")
    assert answer("xyzzy") == OTHERWISE


def test_only_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the newest conversations, the newest messages."""
    monkeypatch.setattr(chat, "permitted", lambda conversation_id: (Permit(conversation_id, False, 1, "cache"), "no"))

    async def run() -> None:
        room = Chat()
        for number in range(chat.CONVERSATIONS + 5):
            room.hear(f"c{number}", "hello")
        for _ in range(chat.MESSAGES + 5):
            room.hear("c200", "hello")
        assert len(room._messages) == chat.CONVERSATIONS
        assert len(room._messages["c200"]) == chat.MESSAGES
        assert len(room._at_work) <= chat.AT_ONCE + 1

    asyncio.run(run())


def test_a_broker_that_is_away_is_told_in_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The customer's wish is not swallowed: what could not be sent is said, and the AI goes on as it may."""
    monkeypatch.setattr(chat, "permitted", lambda conversation_id: (Permit(conversation_id, False, 1, "cache"), "no"))

    def away(*_: object) -> None:
        raise Transient("the broker takes nothing now")

    monkeypatch.setattr(chat, "_send", away)

    async def run() -> list[str]:
        async def at_once(_: float) -> None:
            pass

        room = Chat(at_once)
        room.hear("c1", "I want a human")
        async with asyncio.timeout(10):
            await asyncio.gather(*room._at_work)
        return [message.text for message in room._messages["c1"] if message.sender == "note"]

    assert "the workflow could not redirect: the broker takes nothing now" in asyncio.run(run())
