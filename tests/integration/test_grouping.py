"""Messages that wait for a process run together; each stays a message of its own."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from celery.events import EventReceiver

from tests.culprits import BUGGY, DEADLY, SLOW, STUCK
from tests.eventually import eventually
from tests.integration.groups import ONE, SHORT, all_applied, committed, event, names, occupy, settled, told
from tests.service import Process, Service


@pytest.fixture
def busy(service: Service) -> Iterator[tuple[Service, Process]]:
    """A worker whose one process is occupied for as long as it takes to send some messages."""
    with service.worker(*ONE, **SHORT) as worker, service.beat():
        occupy(service, worker)
        yield service, worker


def test_what_waits_for_a_process_runs_together(busy: tuple[Service, Process]) -> None:
    """Forty messages sent while the only process is busy are one transaction."""
    service, worker = busy
    for name in names(40):
        service.send(event(name))
    settled(service, names(40))
    assert committed(worker) == [3, 40]


def test_a_message_at_quiet_times_runs_by_itself_at_once(service: Service) -> None:
    """Nothing waits for company: each of three messages, sent one after the other, is a run under its own id."""
    with service.worker(*ONE) as worker:
        for number, name in enumerate(names(3)):
            service.send(event(name), task_id=f"task-{name}")
            eventually(partial(all_applied, service, [name]))
            assert worker.says(f'"task_id": "task-{name}"')
            eventually(partial(told, worker, [1] * (number + 1)))


def test_no_run_is_larger_than_a_batch(service: Service) -> None:
    """What waits is cut into runs of five times REDIRECT_BATCH events; a call that is larger by itself is not cut."""
    with service.worker(*ONE, REDIRECT_BATCH="2") as worker:
        occupy(service, worker)
        for name in names(25):
            service.send(event(name))
        service.send(*map(event, names(12, "large")))
        eventually(partial(all_applied, service, names(25) + names(12, "large")))
        eventually(partial(told, worker, [3, 10, 10, 5, 12]))


@contextmanager
def watched(service: Service) -> Iterator[list[dict[str, Any]]]:
    """What Flower hears."""
    seen: list[dict[str, Any]] = []
    with service.producer.connection_for_read() as connection:
        receiver = EventReceiver(connection, handlers={"*": seen.append}, app=service.producer)
        thread = threading.Thread(target=_listen, args=(receiver,), daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            receiver.should_stop = True
            thread.join(5)


def _listen(receiver: EventReceiver) -> None:
    receiver.capture(limit=None, timeout=None, wakeup=False)


def states(seen: list[dict[str, Any]], task_id: str) -> list[str]:
    return [one["type"].removeprefix("task-") for one in list(seen) if one.get("uuid") == task_id]


def result(seen: list[dict[str, Any]], task_id: str) -> str:
    return str(next(one["result"] for one in list(seen) if one.get("uuid") == task_id and "result" in one))


def test_flower_sees_each_message_of_a_group(service: Service) -> None:
    """Received, started, succeeded: each under its own id, each with its own outcome."""
    with service.worker(*ONE) as worker, watched(service) as seen:
        occupy(service, worker)
        for name in names(5):
            service.send(event(name), task_id=f"task-{name}")
        service.send(event("nowhere", destination="nowhere"), task_id="task-nowhere")
        whole = ["received", "started", "succeeded"]
        tasks = [f"task-{name}" for name in [*names(5), "nowhere"]]

        def all_whole() -> bool:
            found = {task: states(seen, task) for task in tasks}
            assert found == dict.fromkeys(tasks, whole), f"{found}, runs of {committed(worker)}"
            return True

        eventually(all_whole)
    assert committed(worker) == [3, 5]
    for name in names(5):
        assert f"'event_id': '{name}'" in result(seen, f"task-{name}")
        assert "'outcome': 'applied'" in result(seen, f"task-{name}")
    assert "'code': 'unknown_destination'" in result(seen, "task-nowhere")


def test_flower_sees_the_end_of_what_ended_with_the_worker(service: Service) -> None:
    """Events wait a moment before they are sent. A worker that is told to stop sends them all the same."""
    with service.worker(*ONE, "--include", "tests.late_events") as worker, watched(service) as seen:
        service.send(event("last"), task_id="task-last")
        eventually(service.agrees)
        worker.popen.send_signal(signal.SIGTERM)  # to the worker alone, as systemd and honcho do
        eventually(lambda: states(seen, "task-last") == ["received", "started", "succeeded"])


@pytest.mark.parametrize(
    ("poison", "code"),
    [
        (BUGGY, "failed"),
        pytest.param(DEADLY, "worker_lost", marks=pytest.mark.slow),
        pytest.param(STUCK, "worker_lost", marks=pytest.mark.slow),
    ],
)
def test_poison_in_a_group_fails_alone(busy: tuple[Service, Process], poison: str, code: str) -> None:
    """One message raises, kills the process or hangs it: all others of its group are applied, and only it is kept."""
    service, worker = busy
    for name in [*names(5, "before"), f"{poison} x", *names(5, "after")]:
        service.send(event(name))

    eventually(service.rejected, within=60)
    settled(service, names(5, "before") + names(5, "after"))

    (kept,) = service.rejected()
    assert (kept["code"], json.loads(kept["body"])) == (code, event(f"{poison} x"))
    assert worker.says('"action": "group_failed"')
    assert worker.running


@pytest.mark.slow
def test_a_group_that_overruns_the_soft_limit_runs_one_by_one(service: Service) -> None:
    """Eight messages of 0.35 s are too much for two seconds together, and none is too much by itself."""
    with service.worker(*ONE, **SHORT) as worker, service.beat():
        occupy(service, worker)
        slow = names(8, f"{SLOW} ")
        for name in slow:
            service.send(event(name))
        settled(service, slow)
        assert committed(worker)[-8:] == [1] * 8
    assert service.rejected() == []


def test_a_revoked_message_of_a_group_is_kept_and_the_others_run(busy: tuple[Service, Process]) -> None:
    """Revoked while it waits: kept with that code, and not applied."""
    service, worker = busy
    for name in names(3):
        service.send(event(name), task_id=f"task-{name}")
    service.producer.control.revoke("task-e1", reply=True)
    settled(service, ["e0", "e2"])
    (kept,) = eventually(service.rejected)
    assert (kept["code"], json.loads(kept["body"])) == ("revoked", event("e1"))
    assert sorted(committed(worker)) == [2, 3]


def test_an_expired_message_is_kept_and_a_later_one_waits_for_its_eta(busy: tuple[Service, Process]) -> None:
    """Expiry and eta are judged as for any task: neither joins the group."""
    service, worker = busy
    service.send(event("e0"))
    service.send(event("too late"), expires=-1)
    service.send(event("e1"))
    service.send(event("later"), countdown=3)
    settled(service, ["e0", "e1", "later"])
    (kept,) = service.rejected()
    assert (kept["code"], json.loads(kept["body"])) == ("expired", event("too late"))
    assert sorted(committed(worker)) == [1, 2, 3]


@pytest.mark.slow
def test_terminating_one_message_of_a_running_group_ends_only_that_one(service: Service) -> None:
    """The process dies for it; the others run again, by themselves."""
    with service.worker(*ONE, **SHORT) as worker:
        occupy(service, worker)
        for name in ["e0", f"{STUCK} x", "e1"]:
            service.send(event(name), task_id=f"task-{name}")
        eventually(lambda: worker.says(f"met {STUCK} x\n"))
        service.producer.control.terminate(f"task-{STUCK} x", signal="SIGKILL")
        settled(service, ["e0", "e1"])
        (kept,) = eventually(service.rejected)
        assert (kept["code"], json.loads(kept["body"])) == ("revoked", event(f"{STUCK} x"))
