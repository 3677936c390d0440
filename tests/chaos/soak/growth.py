"""Whether a process grows: its memory and its descriptors after a warm-up, and at the end."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from statistics import median

import psutil

# Shares of the samples: the first are the warm-up, after which come those at the beginning; the last are the end.
WARM_UP, WINDOW = 0.25, 0.15


class Growth:
    """`sample` now and then the process groups that live through all of it."""

    def __init__(self, leaders: dict[str, int]) -> None:
        self._leaders = leaders
        self._seen: dict[str, list[tuple[float, float, float]]] = defaultdict(list)

    def sample(self) -> None:
        for name, pid in self._leaders.items():
            with suppress(psutil.NoSuchProcess):
                leader = psutil.Process(pid)
                self._seen[name].append(_mean([leader]))
                if children := leader.children():
                    self._seen[f"{name}'s children"].append(_mean(children))

    def told(self) -> dict[str, tuple[float, float]]:
        """Name -> how many times its memory, and its descriptors, at the end are those after the warm-up."""
        return {name: _grown(*map(list, zip(*seen, strict=True))) for name, seen in self._seen.items()}


def _mean(group: Sequence[psutil.Process]) -> tuple[float, float, float]:
    """Of resident memory, of what is private of it, and of open files."""
    memory = [process.memory_full_info() for process in group]
    figures = ([m.rss for m in memory], [m.uss for m in memory], [process.num_fds() for process in group])
    resident, private, files = (sum(figure) / len(group) for figure in figures)
    return resident, private, files


def _grown(resident: Sequence[float], private: Sequence[float], files: Sequence[float]) -> tuple[float, float]:
    """What is resident grows, and counts against what is private: a fork shares that, so it changes by half itself."""
    (begun, ended), (opened, left) = _ends(resident), _ends(files)
    return 1 + (ended - begun) / max(private), left / opened


def _ends(samples: Sequence[float]) -> tuple[float, float]:
    start, width = int(len(samples) * WARM_UP), max(1, int(len(samples) * WINDOW))
    return median(samples[start : start + width]), median(samples[-width:])
