"""A process whose wall clock is wrong: `python -m tests.chaos.harness.clock FILE MODULE ARGUMENT...`.

The number in FILE says by how many seconds, from now on whenever it changes. What measures with the steady clock is
not touched, as on a real machine.
"""

import datetime
import runpy
import sys
import time
from pathlib import Path
from typing import Any


class Clock:
    """`through` is what goes before a process's own command (`World.start`)."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file = file
        self.through = (__name__, str(file))
        self.jump(seconds)

    def jump(self, seconds: float) -> None:
        """Be so far ahead of the truth."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)


def falsify(file: Path) -> None:
    """Before anything else is imported that could keep the right ones: `time.time` and `datetime.now`."""
    right = time.time
    true: Any = datetime.datetime

    def wrong() -> float:
        return right() + float(file.read_text())

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, true)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, true)

    class DateTime(true, metaclass=Kind):  # type: ignore[misc]
        __slots__ = ()  # as large as C code expects it

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return true(*args, **kwargs)

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return true.fromtimestamp(wrong(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return true.fromtimestamp(wrong(), datetime.UTC).replace(tzinfo=None)

    time.time = wrong
    time.time_ns = lambda: int(wrong() * 1e9)
    datetime.datetime = DateTime  # type: ignore[misc]


if __name__ == "__main__":
    falsify(Path(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
