"""Telling the agents' browsers of a host: its own consumer, behind its own server, hears what it can live with."""

import threading
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.afresh import forget
from tests.eventually import eventually
from tests.hosts.host import Host, browser, heard, messages_queued, state, unread
from tests.integration.ledgers import execute
from tests.service import Service
from worker.errors import Permanent
from worker.hosts.pilito import channel, layer
from worker.redirects import State
from worker.redis_client import client

GROUP = "asgi:group:user_7_conversations"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configured")]


def moved(service: Service, *states: State) -> None:
    """As the ledger leaves them."""
    for each in states:
        execute(
            service,
            """INSERT INTO conversation_states
                (conversation_id, owner_id, status, ai_enabled, destination, version, occurred_at, event_id)
            VALUES (:conversation_id, :owner_id, :status, :ai_enabled, :destination, :version, :occurred_at, :event_id)
            ON CONFLICT (conversation_id) DO UPDATE SET version = excluded.version, updated_at = now()""",
            **each.as_dict(),
        )


def updated(conversation_id: str) -> dict[str, str]:
    return {"type": "conversation_updated", "conversation_id": conversation_id}


def joined(host: Host, browsers: int = 1) -> None:
    """Redis knows so many open lists of owner 7."""
    eventually(lambda: client().zcard(GROUP) == browsers)


def test_the_row_and_the_group_fit_the_host(service: Service, host: Host) -> None:
    """Its tables can be made beside ours."""
    host.run("from django.core.management import call_command; call_command('migrate', verbosity=0)")
    names = {row["column_name"] for row in columns(service)}
    assert names == {
        *("id", "title", "status", "is_active", "source", "priority"),
        *("created_at", "updated_at", "user_id", "customer_id"),
    }


def columns(service: Service) -> list[dict[str, Any]]:
    return service.rows("SELECT column_name FROM information_schema.columns WHERE table_name = 'message_conversation'")


def test_a_burst_is_one_message_and_the_browser_lives(service: Service, host: Host) -> None:
    """Twelve redirects of an owner, which come in four rounds: one message, exactly as the host writes it. The next
    that its browser hears is of a later redirect; another owner's browser hears only its own.
    """
    proof, burst = host.proof(), [state(f"c{number}") for number in range(12)]
    with host.serving() as url, browser(url) as agent, browser(url, "8") as other:
        joined(host)
        moved(service, *burst)
        for start in range(0, 12, 3):
            assert channel.notify(burst[start : start + 3], lambda: proof) == {}
        later = [state("later"), state("another", owner_id="8")]
        moved(service, *later)
        assert channel.notify(later, lambda: proof) == {}

        first = heard(agent)
        assert first in [updated(each.conversation_id) for each in burst]
        assert heard(agent) == updated("later")
        assert heard(other) == updated("another")


def test_what_moves_within_the_window_is_told_with_it(service: Service, host: Host) -> None:
    """The look comes after the wait, so a burst that is not over yet is one message as well."""
    proof, first, second = host.proof(), state("c1"), state("c2")
    unread()
    moved(service, first)
    late = threading.Timer(channel.WINDOW / 2, moved, (service, second))
    late.start()
    assert channel.notify([first], lambda: proof) == {}
    late.join()
    assert channel.notify([second], lambda: proof) == {}
    assert messages_queued() == 1


def test_each_new_version_is_told(service: Service, host: Host) -> None:
    """Also within the minute, also when the note of what was told cannot be read, and also when it waited in its row
    for longer than the look goes back."""
    proof, note = host.proof(), "redirect_worker:told:7"
    unread()
    for version, told in enumerate([None, None, "no JSON", "[]"], 1):
        if told:
            client().set(note, told)
        moved(service, state(version=version))
        assert channel.notify([state(version=version)], lambda: proof) == {}
        assert messages_queued() == version
    assert 50 < client().ttl(note) <= 60
    execute(service, "UPDATE conversation_states SET version = 9, updated_at = now() - interval '1 hour'")
    assert channel.notify([state(version=9)], lambda: proof) == {}
    assert messages_queued() == 5
    moved(service, state(version=11))
    for late in (10, 11):  # the state of a round that is overtaken by the look: what was told is what was seen
        assert channel.notify([state(version=late)], lambda: proof) == {}
    assert messages_queued() == 6


def test_a_wrong_key_is_found_before_anything_is_sent(
    service: Service, host: Host, configured: pytest.MonkeyPatch
) -> None:
    """The conversation needs a person, who is told what to set; the browser has heard nothing, and lives."""
    proof = host.proof()
    with host.serving() as url, browser(url) as agent:
        joined(host)
        moved(service, state())
        configured.setenv("DJANGO_SECRET_KEY", "another")
        forget()
        errors = channel.notify([state()], lambda: proof)
        assert isinstance(errors["c1"], Permanent)
        assert "Set DJANGO_SECRET_KEY as the host has it" in str(errors["c1"])

        configured.setenv("DJANGO_SECRET_KEY", host.secret)
        forget()
        moved(service, state("c2"))
        assert channel.notify([state("c2")], lambda: proof) == {}
        assert heard(agent) == updated("c2")
        moved(service, state("c3"))
        assert channel.notify([state("c3")], lambda: proof) == {}
        assert heard(agent) == updated("c3")


def test_a_wrong_key_would_kill_the_browser(
    service: Service, host: Host, configured: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above proves nothing: without the check, the connection ends."""
    with host.serving() as url, browser(url) as agent:
        joined(host)
        configured.setenv("DJANGO_SECRET_KEY", "another")
        forget()
        monkeypatch.setattr(layer, "check", lambda shown: None)
        assert channel.notify([state()], lambda: None) == {}
        with pytest.raises(ConnectionClosedError):
            heard(agent)


def test_without_a_proof_nothing_is_sent(service: Service) -> None:
    """All of the owner's conversations say what to do. Where no browser is open there is nothing to refuse."""
    states = [state("c1"), state("c2"), state("c3", owner_id="8"), state("c4", owner_id=None)]
    unread()
    errors = channel.notify(states, lambda: None)
    assert set(errors) == {"c1", "c2"}
    assert {type(error) for error in errors.values()} == {Permanent}
    assert "leave a proof" in str(errors["c1"])
    assert messages_queued() == 0
    assert not client().exists("redirect_worker:told:7")


def test_the_proof_holds_at_any_age_and_for_no_other_key(host: Host, configured: pytest.MonkeyPatch) -> None:
    """A layer itself reads nothing older than 70 s. What is no proof at all proves nothing."""
    proof = host.proof()
    layer.check(proof)
    later = time.time() + 1e8
    configured.setattr(time, "time", lambda: later)
    layer.check(proof)
    for wrong in (b"", b"x" * 100, proof[:-8], Host(host.service, "another").proof()):
        with pytest.raises(Permanent):
            layer.check(wrong)


def test_a_host_without_a_secret_has_its_fallback(host: Host, configured: pytest.MonkeyPatch) -> None:
    """Also then the two agree."""
    configured.delenv("DJANGO_SECRET_KEY")
    forget()
    layer.check(Host(host.service, "fallback-key").proof())
    assert layer.key() == "fallback-key" + "x" * 20


def test_without_an_owner_or_an_open_browser_nothing_is_asked(service: Service) -> None:
    """Nobody to tell; a browser that left its group without a word (a day ago) is nobody too."""

    def asked() -> bytes:
        raise AssertionError

    assert channel.notify([], asked) == {}
    assert channel.notify([state(owner_id=None)], asked) == {}
    unread(since=channel.GROUP_EXPIRY + 1)
    assert channel.notify([state(), state("c2", owner_id="سلام 8")], asked) == {}
