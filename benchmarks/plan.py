"""What a run will do, and how long it may take."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.catalogue import SLOWEST
from benchmarks.sockets.load import Load
from benchmarks.sockets.systems import SERVERS
from benchmarks.systems import System

WARM_UP = 200
# Publish -> frame, in each alternation: 750 in all.
LATENCY_EVENTS = 150
GROWTH_STEP = 20_000
SWEEP_SIZES = (10_000, 1_000_000, 5_000_000)
# Fewer than of the systems: each takes about a minute for each server, and medians of 20,000 frames are steady.
SOCKET_ALTERNATIONS = 3
# Seconds that a run takes besides its backlog: stores, start, warm-up, checks. And for each event: publishing it.
AROUND, PUBLISH = 7.0, 0.0003


@dataclass
class Plan:
    systems: Sequence[System]
    alternations: int
    events: int | None
    seed: int
    skip: frozenset[str] = frozenset()
    quick: bool = False
    # Seconds that each system took in this run, as far as it is known.
    took: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.alternations = 1 if self.quick else self.alternations

    @property
    def latency_events(self) -> int:
        return 20 if self.quick else LATENCY_EVENTS

    @property
    def growth_step(self) -> int:
        return 500 if self.quick else GROWTH_STEP

    @property
    def sweep_sizes(self) -> Sequence[int]:
        return (1_000, 10_000, 50_000) if self.quick else SWEEP_SIZES

    @property
    def socket_alternations(self) -> int:
        return min(self.alternations, SOCKET_ALTERNATIONS)

    @property
    def load(self) -> Load:
        return Load(sockets=200, seconds=3) if self.quick else Load()

    def backlog(self, system: System) -> int:
        most = self.events or (min(300, SLOWEST) if self.quick else system.backlog)
        return min(most, system.backlog)

    def latency(self, system: System) -> bool:
        return system.latency and "latency" not in self.skip

    def growing(self) -> System | None:
        """The system whose memory is watched over ten times the events: this service by its JSON queue."""
        wanted = ("ours-json-rabbitmq", "ours-json-redis")
        found = {system.name: system for system in self.systems}
        return None if "memory" in self.skip else next((found[name] for name in wanted if name in found), None)

    def seconds(self, system: System) -> float:
        """One run of one system."""
        if system.name in self.took:
            return self.took[system.name]
        count = self.backlog(system)
        watch = self.latency_events / 20 + 1 if self.latency(system) else 0
        return AROUND + count * PUBLISH + count / system.expected + watch

    def seconds_left(self, done: int) -> float:
        """After `done` runs, in the order of the alternations."""
        turns = [system for _ in range(self.alternations) for system in self.systems]
        total = sum(map(self.seconds, turns[done:]))
        if growing := self.growing():
            total += 20 + 10 * self.growth_step * (PUBLISH + 1 / growing.expected)
        if "sweep" not in self.skip:
            total += 30 + sum(self.sweep_sizes) * 2.5e-5
        if "sockets" not in self.skip:
            total += self.socket_alternations * len(SERVERS) * self.load.turn_seconds
        return total
