"""The listeners of one turn: a process of their own, so that what they do costs neither server nor publisher."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import psutil

from benchmarks.processes import ROOT, NotReady

# Seconds after the last update was published: without any frame, and altogether. What has not come by then is lost.
PATIENCE, LONGEST = 5.0, 60.0


class Heard(NamedTuple):
    """Of each frame the socket, the event_id and when it came; and why sockets were closed."""

    frames: Sequence[tuple[int, str, float]]
    closed: Sequence[str]


class Listeners:
    """Sockets that are open until the block ends."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.sockets.listeners_loop"]
        self._popen = subprocess.Popen(  # noqa: S603 - the command is ours
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.communicate()

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self._popen.pid)

    def open(self, port: int, tokens: Sequence[str], per_owner: int, compression: bool) -> float:
        """Open `per_owner` sockets with each token; returns the seconds until the last of them had its snapshot."""
        asked = {"port": port, "tokens": tokens, "per_owner": per_owner, "compression": compression}
        answer = self._ask(json.dumps(asked))
        return float(answer["seconds"])

    def wait_for(self, frames: int) -> None:
        """Until so many have come, or no more come."""
        found, began = -1, time.monotonic()
        moved = began
        while found < frames and time.monotonic() < min(moved + PATIENCE, began + LONGEST):
            before, found = found, self._ask("count")["frames"]
            if found > before:
                moved = time.monotonic()
            time.sleep(0.05)

    def heard(self) -> Heard:
        answer = self._ask("report")
        frames = [(number, event_id, moment) for number, event_id, moment in answer["received"]]
        return Heard(frames, answer["closed"])

    def _ask(self, line: str) -> Any:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            self._popen.stdin.write(line + "\n")
            self._popen.stdin.flush()
            return json.loads(self._popen.stdout.readline())
        except (OSError, ValueError):
            raise NotReady("the listeners have ended; what they said is above") from None
