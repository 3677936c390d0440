"""Whether a process grows, with those that it has forked: memory and descriptors after a warm-up, and at the end."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from statistics import mean, median

import psutil

# Shares of the samples: the first are the warm-up, after which come those at the beginning; the last are the end.
WARM_UP, WINDOW = 0.25, 0.15


class Growth:
    """`sample` now and then the process groups that live through all of it."""

    def __init__(self, leaders: dict[str, int]) -> None:
        self._leaders = leaders
        self._seen: dict[str, list[float]] = defaultdict(list)

    def sample(self) -> None:
        for name, pid in self._leaders.items():
            with suppress(psutil.NoSuchProcess):
                leader = psutil.Process(pid)
                children = leader.children()
                self._seen[f"memory of {name}"].append(memory_of([leader, *children]))
                self._seen[f"memory of {name}'s first process"].append(leader.memory_info().rss)
                self._seen[f"descriptors of {name}"].append(leader.num_fds())
                if children:
                    self._seen[f"descriptors of {name}'s children"].append(mean(child.num_fds() for child in children))

    def told(self) -> dict[str, float]:
        """What -> how many times what it was after the warm-up it is at the end."""
        return {what: _grown(seen) for what, seen in self._seen.items()}


def memory_of(processes: Iterable[psutil.Process]) -> int:
    """Bytes, in proportional set sizes: what a process shares with one that it has forked is there once.

    Nor has anybody taken what is private to the last of those that shared it.
    """
    return sum(int(process.memory_full_info().pss) for process in processes)


def _grown(samples: Sequence[float]) -> float:
    start, width = int(len(samples) * WARM_UP), max(1, int(len(samples) * WINDOW))
    return median(samples[-width:]) / median(samples[start : start + width])
