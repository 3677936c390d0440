"""The load of a soak: all ways in at once, at a rate that does not wait for anybody."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from random import Random

from tests.chaos.harness.ways_in import ByOutbox, OverHTTP
from tests.chaos.harness.workload import Producer, Workload
from tests.chaos.harness.world import World

# Events in one message: one to as many.
BATCH = 20
CONVERSATIONS, OWNERS = 200, 5
# Of all events there may be a million, and none may be in the future.
TICK = timedelta(microseconds=100)


class Load:
    """A thread for each way in. `rate` is events per second over all; None: as fast as it goes."""

    def __init__(self, world: World, port: int) -> None:
        sent = world.producer.sent
        self._ways: Sequence[Producer] = [
            world.producer,
            OverHTTP(world.direct, sent, port),
            ByOutbox(world.direct, sent),
        ]
        self._workloads = [
            Workload(world.seed, CONVERSATIONS, OWNERS, prefix=type(way).__name__.lower(), tick=TICK)
            for way in self._ways
        ]

    @contextmanager
    def running(self, rate: float | None) -> Iterator[None]:
        done = threading.Event()
        threads = [
            threading.Thread(target=self._send, args=(way, workload, rate, done), name=workload.prefix)
            for way, workload in zip(self._ways, self._workloads, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive(), f"a publish by {thread.name} has no end"

    def _send(self, way: Producer, workload: Workload, rate: float | None, done: threading.Event) -> None:
        draw, due = Random(f"{workload.prefix} {workload.seed}"), time.monotonic()
        while not done.is_set():
            events = workload.events(draw.randint(1, BATCH))
            # What raised is sent again, as it was, until its result is known: a producer that cares.
            while not way.send(events) and not done.wait(0.2):
                pass
            if rate is not None:
                due = max(due + len(events) * len(self._ways) / rate, time.monotonic() - 10)
                done.wait(max(0.0, due - time.monotonic()))
