"""Calls that a worker has given to a process, or messages that come to it, in the moment when it should let go."""

import fcntl
import os
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.culprits import SLOW, STUCK
from tests.eventually import eventually
from tests.integration.groups import ONE, SHORT, all_applied, connected, event, names
from tests.service import Process, Service
from worker import embedded

# Seconds that billiard lets a process wait for somebody to read its answer; a worker that ends earlier has read it.
UNREAD = 30


@contextmanager
def not_begun(worker: Process, service: Service, first: str) -> Iterator[None]:
    """The only process of `worker` has this event in its pipe, and does not get to it."""
    (child,) = psutil.Process(worker.popen.pid).children()
    eventually(lambda: worker.says(f"up {child.pid}\n"))
    child.suspend()
    try:
        service.send(event(first))
        eventually(lambda: worker.says(f"taken {first}"))
        eventually(lambda: unread(child.pid))
        yield
    finally:
        child.resume()


def unread(pid: int) -> bool:
    """Whether bytes wait in one of this process's pipes."""
    waiting = bytearray(4)
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if str(fd.readlink()).startswith("pipe:"):
            opened = os.open(fd, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.ioctl(opened, termios.FIONREAD, waiting)
            finally:
                os.close(opened)
            if any(waiting):
                return True
    return False


@pytest.mark.parametrize("broker", ["service", "rabbit_service"])
def test_the_answer_to_a_call_that_had_not_begun_is_read_at_the_end(
    broker: str, request: pytest.FixtureRequest
) -> None:
    """SIGTERM: the worker waits for the call as for any other, and not for a process that nobody listens to."""
    service: Service = request.getfixturevalue(broker)
    with service.worker(*ONE) as worker:
        with not_begun(worker, service, "e0"):
            main = psutil.Process(worker.popen.pid)
            threads = main.num_threads()
            main.terminate()
            eventually(lambda: main.num_threads() > threads)  # Celery has one more while it waits for its processes
        worker.popen.wait(timeout=UNREAD / 2)
        assert all_applied(service, ["e0"])


@pytest.mark.parametrize("at", ["a call", "an answer", "an event for Flower"])
def test_told_to_go_in_the_middle_of_something_it_ends(service: Service, at: str) -> None:
    """SIGQUIT while a call is written to a process, or an answer by one, or under a lock that the way out takes too.
    It waited for ever.
    """
    slow = [f"{SLOW} {number}" for number in range(12)]
    options = ("--include", "tests.killers,tests.interrupters")
    with service.worker(*options, REDIRECT_TEST_INTERRUPT=at) as worker, service.beat():
        service.send(*map(event, slow))
        worker.popen.wait(timeout=UNREAD)
        assert worker.says("interrupted")
        with service.worker():
            eventually(partial(all_applied, service, slow))


def test_invariant_8_a_call_that_had_not_begun_keeps_its_time_limit(service: Service, tmp_path: Path) -> None:
    """The broker restarts before a process begins what hangs it: it is killed for it, and what waits is applied."""
    home = tmp_path / "broker-home"
    service = replace(service, broker_url=embedded.start(home, ["broker"])["broker"])
    try:
        with service.worker(*ONE, **SHORT) as worker, service.beat():
            with not_begun(worker, service, f"{STUCK} first"):
                embedded.stop(home, ["broker"])
                embedded.start(home, ["broker"])
                eventually(lambda: connected(worker, 2))
            for name in names(10):
                service.send(event(name))
            eventually(partial(all_applied, service, names(10)), within=40)
            assert worker.running
    finally:
        embedded.stop(home)


def test_an_answer_that_nobody_reads_for_long_is_not_torn(service: Service) -> None:
    """The main process stands still for longer than any time limit (Celery looks for its broker so): the call is done,
    and its answer, larger than a pipe, is half written. A limit that interrupts the other half ended the worker.
    """
    with service.worker(*ONE, **SHORT) as worker, service.beat():
        main = psutil.Process(worker.popen.pid)
        (child,) = main.children()
        service.send(event(f"{SLOW} first"), event(f"{SLOW} too"))
        eventually(lambda: worker.says(f"met {SLOW} first"))
        for message in range(100):
            service.send(*map(event, names(10, of=f"m{message}-")))
        eventually(lambda: worker.says("met m0-0"))
        main.suspend()
        eventually(partial(all_applied, service, names(10, of="m9-")))
        threading.Event().wait(float(SHORT["REDIRECT_TASK_TIME_LIMIT"]) + 1)
        main.resume()
        service.send(event("later"))
        eventually(partial(all_applied, service, ["later"]), within=20)
        assert worker.running and not worker.says("group_timeout")
        assert main.children() == [child]


def test_a_worker_ends_although_a_process_does_not(service: Service) -> None:
    """SIGTERM, and a process that stands still outside any task: it is waited for as long as for a task."""
    with service.worker(*ONE, **SHORT) as worker:
        main = psutil.Process(worker.popen.pid)
        (child,) = main.children()
        eventually(lambda: worker.says(f"up {child.pid}\n"))
        child.suspend()
        main.terminate()
        worker.popen.wait(timeout=UNREAD)
        assert not child.is_running()


def test_what_it_will_not_do_goes_back_at_once(service: Service) -> None:
    """SIGTERM under a busy process: what waits for it, and what Redis hands out until its end, is for others."""
    with service.worker("-n", "new@%h") as new, service.beat():
        new.popen.send_signal(signal.SIGSTOP)
        eventually(lambda: service.broker.info("clients")["blocked_clients"] == 0)  # it waits for none
        with service.worker(*ONE, "-n", "old@%h") as old:
            service.send(*[event(f"{SLOW} {number}") for number in range(24)])
            eventually(lambda: old.says(f"met {SLOW} 0"))
            service.send(event("waits"))
            eventually(lambda: old.says("taken waits"))
            old.popen.send_signal(signal.SIGTERM)
            eventually(lambda: old.says("Warm shutdown"))
            new.popen.send_signal(signal.SIGCONT)
            for name in names(10):
                service.send(event(name))
            eventually(partial(all_applied, service, ["waits", *names(10)]), every=0.01)
            assert not all_applied(service, [f"{SLOW} 0"])
