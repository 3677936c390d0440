"""Wait for a fact, not for a second."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(fact: Callable[[], T], within: float = 60.0, every: float = 0.05) -> T:
    """The first truthy answer of `fact` within so many seconds; fails saying what it last saw."""
    deadline = time.monotonic() + within
    seen: object = None
    while True:
        try:
            seen = answer = fact()
            if answer:
                return answer
        except AssertionError as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s; last seen: {seen!r}")
        time.sleep(every)
