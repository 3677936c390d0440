"""Which fault comes when, and for how long: drawn from the seed, before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

# Seconds between two faults on average, and how long one lasts.
EVERY = 4.0
SHORTEST, LONGEST = 0.2, 4.0


@dataclass(frozen=True, order=True)
class Planned:
    """At `at` seconds the fault `name` begins; `seconds` later it ends. Faults may overlap."""

    at: float
    name: str
    seconds: float


def plan(seed: int, names: Sequence[str], seconds: float) -> list[Planned]:
    """The same for the same seed, names and duration. No fault begins in the last LONGEST seconds."""
    draw, at, planned = Random(seed), 0.0, []
    while (at := at + draw.uniform(0.4, 1.6) * EVERY) < seconds - LONGEST:
        planned.append(Planned(at, draw.choice(sorted(names)), draw.uniform(SHORTEST, LONGEST)))
    return planned
