"""The soak's measure of memory and descriptors, on a process that takes them as it is told."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.chaos.soak.growth import Growth

OBEYS = """
import os, signal
kept = [os.urandom(100 << 20)]

def take(*_):
    kept.extend([os.urandom(40 << 20), *(os.open(os.devnull, os.O_RDONLY) for _ in range(20))])
    os.write(1, b"done\\n")

def fork(*_):
    if os.fork():
        os.write(1, b"done\\n")

signal.signal(signal.SIGUSR1, take)
signal.signal(signal.SIGUSR2, fork)
os.write(1, b"done\\n")
while True:
    signal.pause()
"""
SAMPLES = 8  # before something happens, and after it

Tell = Callable[[int, signal.Signals], None]


@pytest.fixture
def leader() -> Iterator[tuple[int, Tell]]:
    """The pid of one that obeys, and how to tell it, or one that it has forked, to do something."""
    with subprocess.Popen([sys.executable, "-c", OBEYS], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        told = process.stdout

        def tell(pid: int, what: signal.Signals) -> None:
            os.kill(pid, what)
            assert told.readline() == b"done\n"

        assert told.readline() == b"done\n"
        yield process.pid, tell
        os.killpg(process.pid, signal.SIGKILL)


def grown(pid: int, happens: Callable[[], None]) -> dict[str, float]:
    growth = Growth({"it": pid})
    for step in (happens, lambda: None):
        for _ in range(SAMPLES):
            growth.sample()
        step()
    return growth.told()


def test_what_a_process_takes_is_seen(leader: tuple[int, Tell]) -> None:
    pid, tell = leader
    found = grown(pid, lambda: tell(pid, signal.SIGUSR1))
    assert found.keys() == {"memory of it", "memory of it's first process", "descriptors of it"}
    assert min(found.values()) > 1.2, found


def test_what_one_that_it_has_forked_takes_is_seen(leader: tuple[int, Tell]) -> None:
    pid, tell = leader
    tell(pid, signal.SIGUSR2)
    (forked,) = psutil.Process(pid).children()
    found = grown(pid, lambda: tell(forked.pid, signal.SIGUSR1))
    assert found["memory of it"] > 1.2, found
    assert found["descriptors of it's children"] > 1.2, found
    assert found["memory of it's first process"] == pytest.approx(1, abs=0.05)


def test_what_is_shared_is_there_once(leader: tuple[int, Tell]) -> None:
    """A process that forks another has not grown by all that the other has from it."""
    pid, tell = leader
    found = grown(pid, lambda: tell(pid, signal.SIGUSR2))
    assert max(found.values()) == pytest.approx(1, abs=0.05), found
