"""Many updates of one conversation within a moment."""

import asyncio
from collections.abc import Callable

import pytest

from worker.gateway import folding
from worker.gateway.feed import Frame
from worker.gateway.folding import Folding


def frame(version: int, conversation_id: str = "c1", owner_id: str | None = "7") -> Frame:
    return Frame(conversation_id, owner_id, version, f"{conversation_id} {version} {owner_id}")


def handed_on(act: Callable[[Folding], None], count: int) -> list[str]:
    """The texts handed on, once there are `count`, and none came for two windows after that."""

    async def run() -> list[str]:
        texts: list[str] = []
        act(Folding(lambda one: texts.append(one.text)))
        async with asyncio.timeout(10):
            while len(texts) < count:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.001)
        await asyncio.sleep(2 * folding.WINDOW)
        return texts

    return asyncio.run(run())


def test_the_first_comes_at_once_and_the_newest_at_the_end_of_the_window() -> None:
    """Of three updates within a moment the one in between is nobody's loss."""

    def act(fold: Folding) -> None:
        for version in (1, 2, 3):
            fold.take(frame(version))

    assert handed_on(act, 2) == ["c1 1 7", "c1 3 7"]


def test_the_first_does_not_wait() -> None:
    """It is handed on before `take` returns."""

    async def run() -> list[str]:
        texts: list[str] = []
        Folding(lambda one: texts.append(one.text)).take(frame(1))
        return texts

    assert asyncio.run(run()) == ["c1 1 7"]


def test_conversations_do_not_fold_into_each_other() -> None:
    """Each has its own window."""

    def act(fold: Folding) -> None:
        for name in ("a", "b", "c"):
            fold.take(frame(1, name))

    assert handed_on(act, 3) == ["a 1 7", "b 1 7", "c 1 7"]


def test_late_and_doubled_versions_are_dropped() -> None:
    """Whatever comes in which order, a version is handed on once, and never an older one after it."""

    def act(fold: Folding) -> None:
        for version in (2, 2, 1, 3, 1, 3):
            fold.take(frame(version))

    assert handed_on(act, 2) == ["c1 2 7", "c1 3 7"]


def test_an_owner_that_becomes_known_is_told() -> None:
    """It comes with the same version, and is news all the same."""

    def act(fold: Folding) -> None:
        fold.take(frame(1, owner_id=None))
        fold.take(frame(1, owner_id="7"))

    assert handed_on(act, 2) == ["c1 1 None", "c1 1 7"]


def test_only_so_many_versions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs for months does not grow by a conversation each."""
    monkeypatch.setattr(folding, "REMEMBERED", 10)

    def act(fold: Folding) -> None:
        for number in range(100):
            fold.take(frame(1, f"c{number}"))
        assert len(fold._last) == 10

    handed_on(act, 100)
