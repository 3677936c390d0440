"""How long a fuzzer goes on: so many rounds among the tests, its share of the time in `make fuzz`."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from random import Random

# Seconds between lines that say how far it is.
TOLD_EVERY = 10.0
# Characters of an input that are shown; the seed makes it again in full.
SHOWN = 4000


@dataclass
class Rounds:
    """The rounds of one target. Each has its own random numbers, which follow from the seed and the round's number."""

    target: str
    seed: str
    seconds: float | None
    tried: int = 0
    crashes: int = 0

    def run(self, one_round: Callable[[Random], int], most: int = 1) -> None:
        """`one_round` answers how many inputs it tried, and raises when one broke something.

        `most` is the number of rounds where no time is given.
        """
        for number in self._numbers(most):
            try:
                self.tried += one_round(Random(f"{self.seed} {self.target} {number}"))
            except BaseException as error:
                self.crashes += isinstance(error, Exception)
                error.add_note(f"again: make fuzz SEED={self.seed} ONLY={self.target} ROUND={number}")
                raise

    def _numbers(self, most: int) -> Iterator[int]:
        first = int(os.environ.get("FUZZ_ROUND", "0"))
        if self.seconds is None:
            yield from range(first, first + most)
            return
        started = told = time.monotonic()
        for number in count(first):
            now = time.monotonic()
            if now - started > self.seconds and number > first:
                return
            if now - told > TOLD_EVERY:
                told = now
                print(f"  {self.target}: {self.tried} inputs in {now - started:.0f} s", flush=True)  # noqa: T201
            yield number


@contextmanager
def trying(given: object) -> Iterator[None]:
    """Whatever goes wrong in the block, the input is told with it."""
    try:
        yield
    except Exception as error:
        error.add_note(f"input: {given!r}"[:SHOWN])
        raise


def numbered(random: Random, number: int) -> list[str]:
    """Tokens that no other round has, so that each input can be found again wherever it went."""
    run = f"{random.getrandbits(40):010x}"
    return list(islice((f"fuzz-{run}-{at:04}" for at in count()), number))
