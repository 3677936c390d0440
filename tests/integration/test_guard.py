"""Invariant 6 at the broker: no message kills, livelocks or loops a worker, and none is lost."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

import psutil
import pytest

from tests.conftest import make_service
from tests.eventually import eventually
from tests.poison import Case, event, identity, message
from tests.poison_cases import cases
from tests.poison_fuzz import TOKEN, mutants
from tests.service import Process, Service


@dataclass
class Guarded:
    """A worker, and what must be as it was when it started."""

    service: Service
    worker: Process
    children: set[int]

    def serves(self, event_id: str) -> bool:
        """A healthy event is done by the same processes, on the same connection, and nothing is left over."""
        self.service.send(event(event_id))
        eventually(lambda: self.service.cached(event_id))
        eventually(lambda: not self.service.broker.exists("unacked", "redirects", "effects.cache", "maintenance"))
        assert self.worker.running
        assert children(self.worker) == self.children
        assert not self.worker.says("Connection to broker lost")
        return True


def children(worker: Process) -> set[int]:
    return {child.pid for child in psutil.Process(worker.popen.pid).children()}


@pytest.fixture(scope="module")
def guarded(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One worker for everything that must not harm it."""
    service = make_service(servers, tmp_path_factory.mktemp("guarded"))
    with service.worker() as worker:
        eventually(lambda: len(children(worker)) == 4)
        yield Guarded(service, worker, children(worker))


def test_invariant_6_poison_is_parked_whole_and_harms_nobody(guarded: Guarded) -> None:
    """All of it in one go: each message is kept, every byte, with a reason that says what would be right.

    What means nothing here is ignored and its event applied; a healthy event behind it all is done as ever.
    """
    service, sent = guarded.service, list(cases())
    for case in sent:
        service.broker.lpush(case.queue, case.item)

    assert guarded.serves("behind the poison")

    kept: dict[str, list[dict[str, str]]] = {}
    for row in service.rejected():
        kept.setdefault(identity(row["body"]), []).append(row)
    done = {row["event_id"] for row in service.redirects()}
    assert {case.name: wrong for case in sent if (wrong := _unlike(case, kept, done))} == {}
    assert sum(map(len, kept.values())) == sum(len(case.kept) for case in sent if case.says)


def _unlike(case: Case, kept: dict[str, list[dict[str, str]]], done: set[str]) -> str | None:
    """How this message's fate differs from what it should be."""
    if case.says is None:
        return None if case.name in done else "not applied"
    rows = [row for identity in case.kept for row in kept.get(identity, [])]
    if len(rows) != len(case.kept):
        return f"kept {len(rows)} times"
    told = {(row["code"], row["source"], case.says in row["error"], len(row["error"]) < 1100) for row in rows}
    return None if told == {(case.code, case.queue, True, True)} else f"{told}: {rows[0]['error'][:200]}"


def test_what_a_newer_beat_asks_for_is_passed_over(guarded: Guarded) -> None:
    """It carries nothing, and is asked for again; with anything in it, or on another queue, it is kept."""
    ask, before = guarded.service.producer.send_task, len(guarded.service.rejected())
    ask("of_a_later_version", queue="maintenance", kwargs={"asked": "twice"})
    ask("of_a_later_version", queue="effects.cache")
    ask("of_a_later_version", queue="maintenance")

    assert guarded.serves("behind a newer beat")
    eventually(lambda: guarded.worker.says("wish_passed_over"))

    sources = [row["source"] for row in guarded.service.rejected()[before:]]
    assert sorted(sources) == ["effects.cache", "maintenance"]


def test_invariant_6_garbage_on_the_control_channel(guarded: Guarded) -> None:
    """What anybody publishes there is dropped when it is no control message; Flower goes on being answered."""
    broken = [{"properties": 5}, {"properties": {"delivery_tag": "x"}}, {"headers": [1]}, 5, [1], "x", {}]
    garbage = [b"garbage", b"\xff", b"[" * 100_000, message("no control message"), *map(as_json, broken)]
    for item in garbage:  # Celery subscribes anew after a command that it cannot carry out
        eventually(partial(guarded.service.broker.publish, "/0.celery.pidbox", item))

    eventually(guarded.service.producer.control.ping)
    assert guarded.serves("behind the garbage")


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.slow
def test_invariant_6_fuzz(guarded: Guarded) -> None:
    """A few hundred messages, hurt at random, sent in one go: each is applied or kept, exactly once."""
    seed = int(os.environ.get("TEST_SEED") or Random().randrange(10**6))
    print(f"TEST_SEED={seed}")  # noqa: T201 - for the next run, when this one fails
    tokens = dict(mutants(Random(seed), (f"fuzz-{number:04}" for number in range(400))))
    service = guarded.service
    service.broker.lpush("redirects", *tokens.values())

    assert guarded.serves("behind the fuzz")

    rows = [str(row) for row in service.redirects()] + [row["body"] for row in service.rejected()]
    found = Counter(token for row in rows for token in set(TOKEN.findall(row)))
    assert {token: found[token] for token in tokens if found[token] != 1} == {}
