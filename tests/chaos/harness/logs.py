"""What the processes of a world have told in their logs."""

import json
from collections.abc import Iterator
from typing import Any

from tests.chaos.harness.world import World


def told(world: World, kind: str, *actions: str) -> Iterator[dict[str, Any]]:
    """The lines with one of these actions, process by process."""
    for each, process in world.processes:
        if each == kind:
            for line in process.log.read_text(errors="replace").splitlines():
                if any(f'"{action}"' in line for action in actions) and line.startswith("{"):
                    yield json.loads(line)


def mentions(world: World, kind: str, words: str) -> int:
    """How often the logs of these processes have the words."""
    return sum(
        process.log.read_text(errors="replace").count(words) for each, process in world.processes if each == kind
    )
