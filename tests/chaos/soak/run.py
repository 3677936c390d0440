"""One soak: measure the peak, load half of it, break things by the schedule, heal, and judge."""

import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from tests.chaos.harness.checker import count, verdict
from tests.chaos.harness.pace import recorded
from tests.chaos.harness.servers import frozen
from tests.chaos.harness.world import QUICK, World
from tests.chaos.soak.faults import Fault, faults
from tests.chaos.soak.growth import Growth
from tests.chaos.soak.load import Load
from tests.chaos.soak.schedule import Planned, plan
from tests.eventually import eventually
from tests.service import Process

PEAK_FOR = 10.0
# More than any faults of the schedule hold up at half of the peak.
HELD_UP_FOR = 15.0
# Between two lines of progress, and two samples of memory.
TELL_EVERY = 10.0
# Memory and descriptors may be so many times what they were.
GROWN = 1.1
SWEEP = float(QUICK["REDIRECT_SWEEP_INTERVAL"])
# The kinds of which one process may be killed at any time, and another lives through it all.
TWO_OF = ("worker", "intake", "beat")


class Soak:
    """`run` prints what happens, and returns the exit code."""

    def __init__(self, world: World, seconds: float) -> None:
        self.world, self.seconds = world, seconds
        self.steady: dict[str, Process] = {}
        self._done = threading.Event()
        self._locks = {name: threading.Lock() for name in ("database", "broker", "cache")}

    def run(self) -> int:
        for kind in TWO_OF:
            self.steady[kind] = self.world.start(kind)
            self.world.start(kind)
        gateway = self.world.watch()
        self.steady["gateway"] = self.world.running("gateway")[0]
        load = Load(self.world, gateway.port)
        peak = self._peak(load)
        self._hold_up(load)
        say(f"peak {peak:.0f} events/s; half of it from now on, for {self.seconds / 60:g} minutes")
        growth = Growth({name: process.popen.pid for name, process in self.steady.items()})
        with load.running(peak / 2):
            self._break(growth)
        return self._judge(growth)

    def _peak(self, load: Load) -> float:
        began, sent = time.monotonic(), self.world.producer.sent
        with load.running(None):
            self._done.wait(PEAK_FOR)
        eventually(lambda: recorded(self.world) >= len(sent), within=120)
        return len(sent) / (time.monotonic() - began)

    def _hold_up(self, load: Load) -> None:
        """The largest backlog comes first: memory that a process has had it keeps, and growth is what comes on top."""
        sent = self.world.producer.sent
        with load.running(None), frozen(self.world.database):
            for _ in range(3):
                self._done.wait(HELD_UP_FOR / 3)
                self.world.broker.proxy.reset()
        eventually(lambda: recorded(self.world) >= len(sent.acknowledged), within=240)

    def _break(self, growth: Growth) -> None:
        catalogue = faults(self.world, self._mortals)
        planned = plan(self.world.seed, list(catalogue), self.seconds)
        began, told = time.monotonic(), 0.0
        supervisor = threading.Thread(target=self._supervise, name="supervisor")
        supervisor.start()
        threads: list[threading.Thread] = []
        try:
            while (now := time.monotonic() - began) < self.seconds:
                while planned and planned[0].at <= now:
                    threads.append(self._cause(catalogue, planned.pop(0)))
                if now - told >= TELL_EVERY:
                    told = now
                    growth.sample()
                    self._tell(now)
                self._done.wait(0.1)
        finally:
            for thread in threads:
                thread.join(120)
            self._done.set()
            supervisor.join(30)

    def _cause(self, catalogue: Mapping[str, Fault], planned: Planned) -> threading.Thread:
        fault: AbstractContextManager[None] = catalogue[planned.name]()

        def run() -> None:
            # One server has one fault at a time, or the end of one would be the end of the other.
            with self._locks.get(planned.name.split()[0], threading.Lock()), fault:
                self.world.faults[planned.name] += 1
                time.sleep(planned.seconds)

        thread = threading.Thread(target=run, name=planned.name)
        thread.start()
        return thread

    def _mortals(self, kind: str) -> list[Process]:
        return [process for process in self.world.running(kind) if process is not self.steady[kind]]

    def _supervise(self) -> None:
        """As systemd does it: what has ended is started again, a second later."""
        while not self._done.wait(1):
            for kind in TWO_OF:
                if not self._mortals(kind):
                    self.world.spawn(kind)

    def _tell(self, now: float) -> None:
        sent, faults = self.world.producer.sent, self.world.faults.total()
        share = now / self.seconds
        say(
            f"{share:4.0%}  {now / 60:4.1f} min  {len(sent):,} events, {len(sent.acknowledged):,} acknowledged, "
            f"{faults} faults"
        )

    def _judge(self, growth: Growth) -> int:
        world = self.world
        due = world.direct.rows("""
            SELECT coalesce(max(extract(epoch FROM due_at - now())), 0)::float8 AS seconds FROM side_effects
        """)[0]["seconds"]
        say(f"the last fault has ended; the last side effect is due in {max(0.0, due):.0f} s")
        problems = [f"the steady {name} has ended" for name, process in self.steady.items() if not process.running]
        try:
            found = verdict(world, within=max(0.0, due) + 120)
        except AssertionError as error:
            say(f"FAILED: {error}")
            say(f"{count(world, world.producer.sent, set())}")
            for kept in world.direct.rows("SELECT code, error, count(*) FROM rejected_events GROUP BY 1, 2 LIMIT 20"):
                say(f"  rejected: {kept}")
            return 1
        for what, times in sorted(growth.told().items()):
            say(f"{what}: {times:.2f} times what it was after the warm-up")
            if times > GROWN:
                problems.append(f"the {what} has grown")
        for name, number in sorted(world.faults.items()):
            say(f"  {number:4}  {name}")
        say(f"{found.events:,} events, {found.faults} faults, {found.counters}, agreed after {found.agreed_in:.1f} s")
        if found.agreed_in > max(0.0, due) + SWEEP + 5:
            problems.append(
                f"agreed {found.agreed_in:.0f} s after the last fault: more than a sweep after the last step"
            )
        for problem in problems:
            say(f"FAILED: {problem}")
        return 1 if problems else 0


def say(words: str) -> None:
    print(words, flush=True)  # noqa: T201 - what it is for
