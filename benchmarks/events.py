"""The events of a run: realistic, from a seed, the same for every system."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Event = dict[str, Any]

DESTINATIONS = ("ai", "support", "sales", "technical", "billing")
CONVERSATIONS = 5_000
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_REASONS = (
    "asked for a refund",
    "wants to speak to a person",
    "the error comes back after the update",
    "asks for a quote for forty seats",
    "solved: thanked us",
    "سؤالی درباره صورتحساب دارد",
)
_LANGUAGES = ("en", "de", "fa", "es", "tr")


@dataclass
class Source:
    """Hands out events, never the same one twice, in the order in which they were decided."""

    seed: int
    conversations: int = CONVERSATIONS

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - a repeatable run, not a secret
        self._asked: dict[str, str] = {}
        self._number = 0

    def take(self, count: int, prefix: str = "c") -> list[Event]:
        """`count` events, spread over the conversations: each has its turn before any has its second.

        So two events of one conversation are thousands apart, and nearly all are applied, whatever the batching.
        """
        ids = self._rounds(prefix)
        return [self._event(next(ids)) for _ in range(count)]

    def _rounds(self, prefix: str) -> Iterator[str]:
        numbers = list(range(self.conversations))
        while True:
            self._random.shuffle(numbers)
            yield from (f"{prefix}{self.seed:x}-{number:06d}" for number in numbers)

    def _event(self, conversation_id: str) -> Event:
        chance, self._number = self._random, self._number + 1
        owner = sum(map(ord, conversation_id)) % 40
        workflow = chance.randrange(200)
        return {
            "event_id": f"wf{workflow}-{self.seed:x}-{self._number:08d}",
            "conversation_id": conversation_id,
            "destination": self._elsewhere(conversation_id),
            "occurred_at": (_BEGIN + timedelta(milliseconds=self._number)).isoformat(),
            "owner_id": str(owner),
            "source": f"workflow/{workflow}/node/{chance.randrange(12)}",
            "actor": {"type": "workflow", "id": str(workflow)},
            "reason": chance.choice(_REASONS),
            "metadata": {"language": chance.choice(_LANGUAGES), "order": chance.randrange(10**6), "vip": False},
        }

    def _elsewhere(self, conversation_id: str) -> str:
        now = self._asked.get(conversation_id)
        self._asked[conversation_id] = self._random.choice([name for name in DESTINATIONS if name != now])
        return self._asked[conversation_id]
