"""The floor: the same SQL and Redis commands in batches of 200 from one plain loop per process. No queue."""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checks import check_ours
from benchmarks.events import Event
from benchmarks.ours import ACCOUNTED, SETTLED
from benchmarks.systems import PROCESSES, Publish, Stage


@dataclass(frozen=True)
class Floor:
    backlog: int
    expected: float
    name = "floor"
    label = "the floor: batches of 200, no queue"
    broker = "none"
    latency = False
    per_message: int = 10**9  # a file holds them all
    queues: Sequence[str] = ()

    def start(self, stage: Stage) -> None:
        for number in range(PROCESSES):
            _folder(stage, number).mkdir()
            stage.crew.start("benchmarks.floor_loop", str(_folder(stage, number)), ready="floor ready")

    @contextmanager
    def publisher(self, stage: Stage) -> Iterator[Publish]:
        def publish(events: Sequence[Event]) -> None:
            """A conversation always goes to the same process, or the two would wait for each other's rows."""
            shares: list[list[str]] = [[] for _ in range(PROCESSES)]
            for event in events:
                share = zlib.crc32(event["conversation_id"].encode()) % PROCESSES
                shares[share].append(json.dumps(event, ensure_ascii=False) + "\n")
            for number, lines in enumerate(shares):
                draft = _folder(stage, number) / f"{self.accounted(stage):09d}.draft"
                draft.write_text("".join(lines))
                draft.rename(draft.with_suffix(".jsonl"))

        yield publish

    def accounted(self, stage: Stage) -> int:
        return int(stage.database.value(ACCOUNTED))

    def settled(self, stage: Stage) -> bool:
        return bool(stage.database.value(SETTLED))

    def check(self, stage: Stage, sent: int) -> dict[str, int]:
        return check_ours(stage, sent)


def _folder(stage: Stage, number: int) -> Path:
    return stage.crew.folder / f"events-{number}"
