"""The AI asks twice: ai_permit before it generates, still_valid before it sends."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from tests.afresh import forget
from tests.eventually import eventually
from tests.integration.gateways import redirect
from tests.service import Service
from worker import embedded
from worker.client import Permit, ai_permit
from worker.db import migrations
from worker.embedded.home import recall
from worker.redis_client import client, key

NOWHERE = "127.0.0.1:1"
# Seconds for one question on a loaded machine; its own patience is 3.
BACK_WITHIN = 8.0

Application = Callable[..., None]


@pytest.fixture
def configure(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """Set the URLs of this process, which plays the AI responder: at first those of the service."""

    def set_urls(database: str | None = service.database_url, redis: str | None = service.redis_url) -> None:
        for name, url in (("DATABASE_URL", database), ("REDIS_URL", redis)):
            monkeypatch.setenv(name, url or "")
        forget()

    monkeypatch.setenv("REDIRECT_HOME", str(service.folder / "no-embedded-servers"))
    set_urls()
    yield set_urls
    forget()


def cache(service: Service, conversation_id: str, value: object) -> None:
    service.cache.set(key(conversation_id), value if isinstance(value, str) else json.dumps(value))


@contextmanager
def bounded() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < BACK_WITHIN


# Where the answer comes from.


def test_the_cache_answers(configure: Application, service: Service) -> None:
    """With the key there, the database is not asked; whether it allows is what the key says."""
    configure(database=f"postgresql://{NOWHERE}/none")
    cache(service, "c1", {"ai_enabled": True, "status": "active", "destination": "ai", "version": 3})
    cache(service, "c2", {"ai_enabled": False, "status": "support_active", "destination": "billing", "version": 4})
    assert ai_permit("c1") == Permit("c1", allowed=True, version=3, source="cache")
    assert ai_permit("c2") == Permit("c2", allowed=False, version=4, source="cache")
    assert ai_permit("c1") and not ai_permit("c2")


def test_without_a_key_the_database_answers(configure: Application, service: Service) -> None:
    """With the version of the state."""
    redirect(service, "c1", "billing")
    assert ai_permit("c1") == Permit("c1", allowed=False, version=1, source="database")
    redirect(service, "c1", "ai")
    assert ai_permit("c1") == Permit("c1", allowed=True, version=2, source="database")


UNBELIEVABLE = [
    "",
    "no json",
    "[" * 100_000,
    "\ufeff",
    [],
    {},
    {"ai_enabled": True},
    {"ai_enabled": "yes", "version": 1},
    {"ai_enabled": 1, "version": 1},
    {"ai_enabled": True, "version": True},
    {"ai_enabled": True, "version": 1.0},
    {"ai_enabled": True, "version": "1"},
    {"ai_enabled": True, "version": 0},
]


@pytest.mark.parametrize("value", UNBELIEVABLE, ids=lambda value: json.dumps(value)[:40])
def test_a_key_that_cannot_be_believed_is_no_answer(configure: Application, service: Service, value: object) -> None:
    """The database answers instead."""
    redirect(service, "c1", "billing")
    cache(service, "c1", value)
    assert ai_permit("c1") == Permit("c1", allowed=False, version=1, source="database")


def test_a_key_of_another_type_is_no_answer(configure: Application, service: Service) -> None:
    """Nor one that is not even text."""
    redirect(service, "c1", "billing")
    service.cache.lpush(key("c1"), "a list")
    assert ai_permit("c1").source == "database"
    service.cache.delete(key("c1"))
    service.cache.set(key("c1"), b"\xff\xfe\xff")
    assert ai_permit("c1").source == "database"


def test_a_conversation_that_nobody_redirected_is_the_ais(configure: Application, service: Service) -> None:
    """In version 0; and a row of version 0, which is only a lock, decides nothing."""
    unknown = Permit("c1", allowed=True, version=0, source="database")
    assert ai_permit("c1") == unknown
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO conversation_states VALUES ('c1', NULL, 'support_active', false, 'billing', 0, now(), '')"
            )
        )
    assert ai_permit("c1") == unknown and unknown.still_valid()


@pytest.mark.parametrize("redis", [None, f"redis://{NOWHERE}/0"], ids=["not configured", "away"])
def test_without_redis_the_database_answers(configure: Application, service: Service, redis: str | None) -> None:
    """A Redis that is not there costs the AI nothing."""
    configure(redis=redis)
    redirect(service, "c1", "ai")
    permit = ai_permit("c1")
    assert permit == Permit("c1", allowed=True, version=1, source="database") and permit.still_valid()


@pytest.mark.parametrize("database", [None, f"postgresql://{NOWHERE}/none"], ids=["not configured", "away"])
def test_when_nobody_knows_the_ai_may_not_speak(configure: Application, database: str | None) -> None:
    """Neither cache nor database: not allowed, and not an error."""
    configure(database=database, redis=None)
    with bounded():
        permit = ai_permit("c1")
    assert permit == Permit("c1", allowed=False, version=None, source="nowhere")
    assert not permit and not permit.still_valid()


@pytest.mark.parametrize("conversation_id", ["", "a\x00b", "\ud800", "x" * 100_000])
def test_an_id_that_cannot_be_asks_for_no_trouble(configure: Application, conversation_id: str) -> None:
    """No exception, whatever the id: what neither place can be asked for is not allowed."""
    assert ai_permit(conversation_id).source == ("nowhere" if {"\x00", "\ud800"} & set(conversation_id) else "database")


# Asked again.


def test_a_permit_is_valid_until_the_conversation_moves(configure: Application, service: Service) -> None:
    """Also when it came back to the AI meanwhile: in between, people may have spoken."""
    redirect(service, "c1", "ai")
    permit = ai_permit("c1")
    assert permit.still_valid()
    redirect(service, "c1", "billing")
    assert not permit.still_valid()
    redirect(service, "c1", "ai")
    assert not permit.still_valid()
    assert ai_permit("c1").still_valid()


def test_a_permit_for_an_unknown_conversation_ends_with_its_first_redirect(
    configure: Application, service: Service
) -> None:
    """Whatever the destination."""
    first, second = ai_permit("c1"), ai_permit("c2")
    assert first.still_valid() and second.still_valid()
    redirect(service, "c1", "billing")
    redirect(service, "c2", "ai")
    assert not first.still_valid() and not second.still_valid()


def test_asked_again_the_cache_has_no_say(configure: Application, service: Service) -> None:
    """A key that has not caught up gives a permit, and the database takes it back."""
    redirect(service, "c1", "ai")
    cache(service, "c1", {"ai_enabled": True, "status": "active", "destination": "ai", "version": 1})
    redirect(service, "c1", "billing")
    permit = ai_permit("c1")
    assert permit and permit.source == "cache" and not permit.still_valid()
    cache(service, "ghost", {"ai_enabled": True, "status": "active", "destination": "ai", "version": 1})
    assert ai_permit("ghost") and not ai_permit("ghost").still_valid()


def test_a_permit_that_was_refused_never_becomes_valid(configure: Application, service: Service) -> None:
    """Who was told no has to ask anew, also when the conversation is back with the AI in the version it was told."""
    redirect(service, "c1", "ai")
    assert not Permit("c1", allowed=False, version=1, source="cache").still_valid()
    with pytest.raises(FrozenInstanceError):
        ai_permit("c1").allowed = True  # type: ignore[misc]


def test_a_permit_is_not_valid_while_the_database_is_away(configure: Application, service: Service) -> None:
    """And is again when it is back: nothing has moved."""
    permit = ai_permit("c1")
    configure(database=f"postgresql://{NOWHERE}/none")
    with bounded():
        assert not permit.still_valid()
    configure()
    assert permit.still_valid()


def test_a_connection_that_died_while_idle_is_replaced(configure: Application, service: Service) -> None:
    """The first question after the server closed all connections is answered."""
    permit = ai_permit("c1")
    with service.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )
        )
    assert permit.still_valid()


# Places that do not answer at all.


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_frozen_redis_is_as_good_as_away(configure: Application, tmp_path: Path) -> None:
    """The database answers, soon enough."""
    home = tmp_path / "home"
    try:
        configure(redis=embedded.start(home, ["cache"])["cache"])
        client().set(key("c1"), json.dumps({"ai_enabled": True, "version": 5}))
        assert ai_permit("c1").source == "cache"
        with frozen(recall(home)["cache"].pid or 0), bounded():
            assert ai_permit("c1") == Permit("c1", allowed=True, version=0, source="database")
        eventually(lambda: ai_permit("c1").source == "cache")
    finally:
        embedded.stop(home)


@pytest.mark.slow
def test_a_frozen_database_is_as_good_as_away(configure: Application, tmp_path: Path) -> None:
    """For a connection that is there and for one that has to be made; and it is asked again once it answers."""
    home = tmp_path / "home"
    try:
        url = embedded.start(home, ["postgres"], durable=False)["postgres"]
        migrations.upgrade(url)
        configure(database=url)
        permit = ai_permit("c1")
        assert permit.still_valid()
        server = psutil.Process(recall(home)["postgres"].pid)
        with frozen(server.pid, *(child.pid for child in server.children(recursive=True))):
            for _ in range(6):  # more than the pool has connections
                with bounded():
                    assert not permit.still_valid()
            assert ai_permit("c1").source == "nowhere"
        eventually(permit.still_valid, within=30)
    finally:
        forget()
        embedded.stop(home)


def test_names_that_are_not_resolved_are_as_good_as_away(
    configure: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver knows no timeout, so only a thread is left behind."""
    answer = threading.Event()
    configure(redis="redis://cache.example/0", database=None)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(30) and [])
    try:
        with bounded():
            assert ai_permit("c1").source == "nowhere"
    finally:
        answer.set()
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("ai-permit")])
