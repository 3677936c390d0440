"""Telling the agents' browsers while something is broken, frozen or slow."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.afresh import forget
from tests.eventually import eventually
from tests.hosts.host import Host, messages_queued, state, unread
from tests.service import Service
from worker import embedded
from worker.embedded.home import recall
from worker.errors import Permanent, Transient
from worker.hosts.pilito import channel
from worker.redis_client import client

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configured")]


def test_one_owner_whose_group_is_broken_fails_alone(service: Service, host: Host) -> None:
    """A key of another type needs a person; the next owner is told."""
    proof = host.proof()
    unread()
    client().set("asgi:group:user_8_conversations", "no set")
    errors = channel.notify([state("c1"), state("c2", owner_id="8")], lambda: proof)
    assert list(errors) == ["c2"]
    assert isinstance(errors["c2"], Permanent)
    assert messages_queued() == 1


def test_a_crash_after_sending_costs_a_message_more(
    service: Service, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never one less: what was told is noted after it was sent."""
    proof = host.proof()
    unread()
    with monkeypatch.context() as crash:
        crash.setattr(channel, "_note", lambda told: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            channel.notify([state()], lambda: proof)
    assert messages_queued() == 1
    assert channel.notify([state()], lambda: proof) == {}
    assert messages_queued() == 2


@pytest.fixture
def freezable(configured: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """The pid of a Redis of this test's own, which is ours and the host's."""
    home = tmp_path / "home"
    configured.setenv("REDIS_URL", embedded.start(home, ["cache"])["cache"])
    forget()
    pid = recall(home)["cache"].pid or 0
    yield pid
    os.kill(pid, signal.SIGCONT)
    embedded.stop(home)


@contextmanager
def bounded() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 8


def test_a_frozen_redis_is_transient_soon(host: Host, freezable: int) -> None:
    """Nothing is known of anybody: all of it is tried again."""
    os.kill(freezable, signal.SIGSTOP)
    with bounded(), pytest.raises(Transient):
        channel.notify([state()], lambda: b"")


def test_a_redis_that_freezes_before_the_message_is_transient_soon(host: Host, freezable: int) -> None:
    """Its owners are told when it is back."""
    proof = host.proof()
    unread()

    def proof_and_freeze() -> bytes:
        os.kill(freezable, signal.SIGSTOP)
        return proof

    with bounded():
        errors = channel.notify([state("c1"), state("c2")], proof_and_freeze)
    assert [(id_, type(error)) for id_, error in errors.items()] == [("c1", Transient), ("c2", Transient)]
    os.kill(freezable, signal.SIGCONT)
    assert channel.notify([state("c1"), state("c2")], lambda: proof) == {}
    assert messages_queued() >= 1


def test_who_is_not_told_in_time_is_told_in_a_later_round(
    service: Service, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round ends; what it has sent is noted, the rest is tried again."""
    proof, states = host.proof(), [state(f"c{number}", owner_id=str(number)) for number in range(300)]
    for each in states:
        unread(str(each.owner_id))
    monkeypatch.setattr(channel, "PATIENCE", 0.1)
    errors = channel.notify(states, lambda: proof)
    assert errors
    assert {type(error) for error in errors.values()} == {Transient}
    monkeypatch.setattr(channel, "PATIENCE", 20)
    eventually(lambda: channel.notify(states, lambda: proof) == {})  # on a machine that is busy, not at once
    assert 300 <= messages_queued() <= 300 + channel.LANES


def test_hundreds_of_owners_are_told_in_one_round(service: Service, host: Host) -> None:
    """Over a few connections, well within a task's time."""
    proof, states = host.proof(), [state(f"c{number}", owner_id=str(number)) for number in range(300)]
    for each in states:
        client().zadd(
            f"asgi:group:{channel.group(str(each.owner_id))}", {f"specific.n{each.owner_id}!one": time.time()}
        )
    started = time.monotonic()
    assert channel.notify(states, lambda: proof) == {}
    assert time.monotonic() - started < 5
    assert messages_queued() == 300
