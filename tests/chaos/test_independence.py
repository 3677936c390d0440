"""Invariant 5: the kinds are independent. One that is out delays no other, and no new redirect."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from redis.client import PubSub

from tests.acceptance import record_stores
from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.embedded_homes import pid
from tests.integration.ledgers import event
from tests.service import Process, Service
from worker import embedded

WITHIN = 30.0
# Plus the longest quick step of a kind that failed a few times.
HEALED_WITHIN = 60.0


@contextmanager
def frozen(server: int) -> Iterator[psutil.Process]:
    """The server takes connections and answers nothing, as a machine that swaps itself to death."""
    os.kill(server, signal.SIGSTOP)
    try:
        yield psutil.Process(server)
    finally:
        os.kill(server, signal.SIGCONT)


def waiting(service: Service) -> dict[str, set[str]]:
    """Kind -> the conversations whose copy is behind."""
    behind: dict[str, set[str]] = {}
    for effect in service.effects():
        behind.setdefault(effect["kind"], set()).update(effect["conversation_ids"])
    return behind


def test_invariant_5_a_frozen_cache_delays_no_redirect_and_no_record(service: Service, tmp_path: Path) -> None:
    """While the cache answers nothing, 40 redirects are applied and their records saved; then one more, as ever; cache
    and live frames wait, and heal when it is back."""
    home = tmp_path / "cache-home"
    own = replace(service, redis_url=embedded.start(home, ["cache"])["cache"])
    conversations = {f"c-{number}" for number in range(40)}
    try:
        with own.worker(), own.beat():
            with frozen(pid(home, "cache")) as cache:
                for each in sorted(conversations):
                    own.send(event(f"of-{each}", "billing", each))
                eventually(lambda: len(own.redirects()) == 40, within=WITHIN)
                eventually(lambda: "record" not in waiting(own), within=WITHIN)
                assert waiting(own) == {"cache": conversations, "websocket": conversations}
                assert all(row["version"] == 1 for row in own.rows("SELECT * FROM conversations"))
                assert len(own.rows("SELECT * FROM conversations")) == 40

                eventually(lambda: any(effect["failures"] for effect in own.effects()), within=WITHIN)
                own.send(event("late", "sales", "late"))
                eventually(lambda: own.record("late"), within=WITHIN)
                assert waiting(own)["cache"] == waiting(own)["websocket"] == conversations | {"late"}
                assert all(effect["state"] == "waiting" for effect in own.effects())
                assert cache.status() == psutil.STATUS_STOPPED, "all this while it was frozen"
            eventually(own.agrees, within=HEALED_WITHIN)
    finally:
        embedded.stop(home)


@pytest.fixture(scope="module")
def moody(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service whose records are kept by a host application that a test can break."""
    folder = tmp_path_factory.mktemp("moody")
    service = make_service(servers, folder)
    # Its worker lives as long as this module: it must not take the messages of the other tests.
    service.broker_url = service.broker_url.removesuffix("/0") + "/1"
    record_stores.mood(folder / "mood")
    service.extra = {
        "REDIRECT_RECORD_STORE": record_stores.NAME,
        record_stores.VARIABLE: str(folder / "mood"),
    }
    return service


@pytest.fixture(scope="module")
def worker(moody: Service) -> Iterator[Process]:
    with moody.worker() as worker, moody.beat():
        yield worker


@contextmanager
def listening(service: Service) -> Iterator[PubSub]:
    with service.cache.pubsub(ignore_subscribe_messages=True) as live:  # type: ignore[no-untyped-call]
        live.psubscribe("conversations.*")
        live.get_message(timeout=5)
        yield live


def hear(live: PubSub, told: set[str]) -> set[str]:
    """`told`, and the conversations of the frames that have arrived since."""
    while message := live.get_message(timeout=0.1):
        told.add(json.loads(message["data"])["conversation_id"])
    return told


def test_invariant_5_failing_records_delay_no_cache_and_no_frame(moody: Service, worker: Process) -> None:
    """While the host application is down, keys and frames of 20 redirects go out; the records wait with the reason,
    and are saved when it is back."""
    conversations = {f"r-{number}" for number in range(20)}
    record_stores.mood(moody.folder / "mood", everything="down")
    with listening(moody) as live:
        for each in sorted(conversations):
            moody.send(event(f"of-{each}", "billing", each))
        eventually(lambda: all(moody.cached(each) for each in conversations), within=WITHIN)
        told: set[str] = set()
        eventually(lambda: hear(live, told) >= conversations, within=WITHIN)
    eventually(lambda: waiting(moody) == {"record": conversations}, within=WITHIN)
    eventually(lambda: all("is down" in str(effect["last_error"]) for effect in moody.effects()), within=WITHIN)
    assert all(effect["state"] == "waiting" for effect in moody.effects())
    assert moody.rows("SELECT * FROM conversations") == []

    record_stores.mood(moody.folder / "mood")
    eventually(moody.agrees, within=HEALED_WITHIN)


def test_invariant_5_one_record_that_can_never_be_saved_is_dead_alone(moody: Service, worker: Process) -> None:
    """Of three redirects in one message one has no record in the host application: it is dead with the reason, its
    task fails, and the other two are saved."""
    record_stores.mood(moody.folder / "mood", gone="unknown")
    moody.send(*(event(f"of-{each}", "sales", each) for each in ("fine-1", "gone", "fine-2")))
    eventually(lambda: moody.record("fine-1") and moody.record("fine-2"), within=WITHIN)
    eventually(lambda: [effect["state"] for effect in moody.effects()] == ["dead"], within=WITHIN)

    (dead,) = moody.effects()
    assert (dead["kind"], dead["conversation_ids"]) == ("record", ["gone"])
    assert record_stores.REASON in dead["last_error"]
    assert moody.record("gone") is None
    eventually(
        lambda: worker.says("raised unexpected: SideEffectDead('record of 1 conversations is dead"), within=WITHIN
    )


def test_two_beats_and_two_workers_do_nothing_twice_that_matters(service: Service) -> None:
    """Sweeps, rings and deliveries come double; each event is applied once, each version given once, all agree."""
    # Ten in a row for each conversation, each twice: whatever can run at once, does.
    events = [event(f"e-{number:02}", ("ai", "billing")[number % 2], f"c-{number // 10}") for number in range(60)]
    with service.worker("-n", "one@%h"), service.worker("-n", "two@%h"), service.beat(), service.beat():
        for each in events:
            service.send(each)
            service.send(each)
        eventually(lambda: len(service.redirects()) == 60, within=WITHIN)
        eventually(service.agrees, within=HEALED_WITHIN)

    applied = service.rows("SELECT conversation_id, version FROM redirects WHERE outcome = 'applied' ORDER BY 1, 2")
    assert len({tuple(row.values()) for row in applied}) == len(applied)
    newest = {row["conversation_id"]: row["version"] for row in applied}
    states = service.rows("SELECT conversation_id, version FROM conversation_states ORDER BY 1")
    assert {row["conversation_id"]: row["version"] for row in states} == newest
    assert service.rejected() == []
