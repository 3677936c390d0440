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
from kombu import pools

from tests.eventually import eventually
from tests.killers import BUGGY, DEADLY, SLOW, STUCK
from tests.service import Process, Service

# One process, so that what is sent while it is busy waits; and limits that a test can wait for.
ONE = ("--include", "tests.killers", "--concurrency", "1")
SHORT = {"REDIRECT_TASK_TIME_LIMIT": "3", "REDIRECT_TASK_SOFT_TIME_LIMIT": "2"}


def event(name: str, **more: Any) -> dict[str, Any]:
    return {"event_id": name, "conversation_id": name, "destination": "billing"} | more


def names(number: int, of: str = "e") -> list[str]:
    return [f"{of}{n}" for n in range(number)]


@pytest.fixture
def busy(service: Service) -> Iterator[tuple[Service, Process]]:
    """A worker whose one process is occupied for as long as it takes to send some messages."""
    with service.worker(*ONE, **SHORT) as worker, service.beat():
        occupy(service, worker)
        yield service, worker


def occupy(service: Service, worker: Process, name: str = f"{SLOW} first") -> None:
    service.send(event(name), event(f"{name}, too"), event(f"{name} as well"))
    eventually(lambda: worker.says(f"met {name}\n"))


def committed(worker: Process) -> list[int]:
    """How many events each run applied."""
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if '"redirects_committed"' in line]
    return [line["applied"] for line in lines if "applied" in line]


def all_applied(service: Service, wanted: list[str]) -> bool:
    return {row["event_id"] for row in service.redirects()} >= set(wanted)


def settled(service: Service, wanted: list[str]) -> None:
    """Each is applied once, every copy is written, and no message is left with the broker."""
    eventually(partial(all_applied, service, wanted), within=30)
    eventually(service.agrees, within=30)
    eventually(lambda: service.broker.llen("redirects") == service.broker.hlen("unacked") == 0)
    applied = service.rows("SELECT event_id FROM redirects WHERE outcome = 'applied'")
    assert len(applied) == len({row["event_id"] for row in applied})


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
            assert committed(worker) == [1] * (number + 1)


def test_no_run_is_larger_than_a_batch(service: Service) -> None:
    """What waits is cut into runs of five times REDIRECT_BATCH events; a call that is larger by itself is not cut."""
    with service.worker(*ONE, REDIRECT_BATCH="2") as worker:
        occupy(service, worker)
        for name in names(25):
            service.send(event(name))
        service.send(*map(event, names(12, "large")))
        eventually(partial(all_applied, service, names(25) + names(12, "large")))
        assert committed(worker) == [3, 10, 10, 5, 12]


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
        eventually(lambda: [states(seen, task) for task in tasks] == [whole] * 6)
    assert committed(worker) == [3, 5]
    for name in names(5):
        assert f"'event_id': '{name}'" in result(seen, f"task-{name}")
        assert "'outcome': 'applied'" in result(seen, f"task-{name}")
    assert "'code': 'unknown_destination'" in result(seen, "task-nowhere")


@pytest.mark.parametrize(("poison", "code"), [(BUGGY, "failed"), (DEADLY, "worker_lost"), (STUCK, "worker_lost")])
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


def test_invariant_1_a_worker_killed_with_a_full_waiting_room(rabbit_service: Service) -> None:
    """SIGKILL of the group while sixty messages wait: the broker delivers every one again, and each is applied once."""
    service = rabbit_service
    with service.worker(*ONE) as worker:
        occupy(service, worker)
        for name in names(60):
            service.send(event(name))
        worker.kill()
    with service.worker(), service.beat():
        eventually(partial(all_applied, service, names(60)), within=30)
        eventually(service.agrees, within=30)


@pytest.mark.parametrize("broker", ["service", "rabbit_service"])
def test_invariant_1_a_worker_told_to_stop_with_a_full_waiting_room(
    broker: str, request: pytest.FixtureRequest
) -> None:
    """SIGTERM while sixty messages wait: what it does not do it gives back at once, on either broker."""
    service: Service = request.getfixturevalue(broker)
    with service.worker(*ONE) as worker:
        occupy(service, worker)
        for name in names(60):
            service.send(event(name))
        worker.popen.send_signal(signal.SIGTERM)
        worker.popen.wait(timeout=30)
    # Far less than the visibility timeout, after which a Redis broker would deliver them in any case.
    with service.worker(), service.beat():
        eventually(partial(all_applied, service, names(60)), within=30)
        eventually(service.agrees, within=30)


def test_invariant_1_a_redis_broker_is_lost_under_a_full_waiting_room(service: Service) -> None:
    """What waited runs all the same: Redis would deliver it again only after the visibility timeout, two minutes."""
    with service.worker(*ONE) as worker, service.beat():
        occupy(service, worker)
        for name in names(60):
            service.send(event(name))
        eventually(lambda: service.broker.llen("redirects") == 0)
        service.broker.client_kill_filter(_type="normal", skipme=True)
        eventually(partial(all_applied, service, names(60)), within=30)
        eventually(service.agrees, within=30)
        service.send(event("after it"))
        eventually(partial(all_applied, service, ["after it"]))
        assert worker.running
    pools.reset()  # kombu's, which all tests of this process share: they hold connections that are dead now


def test_invariant_1_the_connection_is_lost_under_a_full_waiting_room(rabbit_service: Service, rabbitmq: Any) -> None:
    """What waited is delivered again on the new connection: nothing is lost, and nothing old is run or acknowledged."""
    service = rabbit_service
    with service.worker(*ONE) as worker, service.beat():
        occupy(service, worker)
        for name in names(60):
            service.send(event(name))
        rabbitmq.ctl("close_all_connections", "test")
        eventually(partial(all_applied, service, names(60)), within=30)
        eventually(service.agrees, within=30)
        eventually(lambda: committed(worker)[-1] >= 1)
        assert worker.running
        service.send(event("after it"))
        eventually(partial(all_applied, service, ["after it"]))
    applied = service.rows("SELECT event_id FROM redirects WHERE outcome = 'applied'")
    assert len(applied) == len({row["event_id"] for row in applied}) == 64
