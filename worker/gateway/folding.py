"""Of many updates of one conversation within a moment, the first and the newest are handed on."""

import asyncio
from collections.abc import Callable

from worker.gateway.feed import Frame

# Seconds: nobody sees more than twenty owners in a second, and the first one comes at once.
WINDOW = 0.05
# Conversations whose last version is remembered; beyond that, a late duplicate is left to the client to drop.
REMEMBERED = 10_000


class Folding:
    """Hands frames on, each version once; frames of one conversation at most every WINDOW seconds."""

    def __init__(self, hand_on: Callable[[Frame], None]) -> None:
        self._hand_on = hand_on
        self._held: dict[str, Frame | None] = {}
        self._last: dict[str, tuple[int, str | None]] = {}

    def take(self, frame: Frame) -> None:
        if self._is_old(frame):
            return
        if frame.conversation_id in self._held:
            held = self._held[frame.conversation_id]
            if held is None or frame.version >= held.version:
                self._held[frame.conversation_id] = frame
            return
        self._held[frame.conversation_id] = None
        asyncio.get_running_loop().call_later(WINDOW, self._release, frame.conversation_id)
        self._remember(frame)
        self._hand_on(frame)

    def _release(self, conversation_id: str) -> None:
        if (frame := self._held.pop(conversation_id)) is not None:
            self.take(frame)

    def _is_old(self, frame: Frame) -> bool:
        """Whether it was handed on already. An owner that became known comes with the same version."""
        version, owner_id = self._last.get(frame.conversation_id, (0, None))
        return frame.version < version or (frame.version, frame.owner_id) == (version, owner_id)

    def _remember(self, frame: Frame) -> None:
        self._last.pop(frame.conversation_id, None)
        self._last[frame.conversation_id] = (frame.version, frame.owner_id)
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]
