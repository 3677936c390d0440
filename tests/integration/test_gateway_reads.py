"""The reads over HTTP: real processes, real servers behind them."""

import json
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from config.settings import DESTINATIONS
from tests.integration.gateways import (
    SOON,
    Gateway,
    gateway,
    redirect,
    snapshot,
)
from tests.service import Service
from worker.embedded.processes import free_port


def test_a_conversation_is_shown_with_its_copies(web: Gateway, private: Service) -> None:
    """State, record, what is behind, what was asked, and what the AI reads now."""
    redirect(private, "shown", "billing")
    body = web.get("/conversations/shown").body
    assert (body["state"]["destination"], body["state"]["version"]) == ("billing", 1)
    assert [effect["kind"] for effect in body["side_effects"]] == ["cache", "websocket", "record"]
    assert [one["outcome"] for one in body["redirects"]] == ["applied"]
    assert body["record"] is None
    assert (body["cache"], body["cache_status"]) == (None, "absent")


@pytest.mark.parametrize("value", ["", "no JSON", '{"version": NaN}', "1e999", r'"\ud800"', "[" * 100_000])
def test_a_cache_that_is_no_json_is_shown_as_text(web: Gateway, private: Service, value: str) -> None:
    """Whatever another program put under the key, the conversation can be read, and what is there is said."""
    assert cached(web, private, value) == (value, "unreadable")


def test_the_cache_is_shown_as_it_is(web: Gateway, private: Service) -> None:
    """The value that the AI reads, though it is not ours; what is no text is shown as far as it goes."""
    assert cached(web, private, '{"version": 1, "note": "سلام"}') == ({"version": 1, "note": "سلام"}, "present")
    assert cached(web, private, b"\xff") == ("\ufffd", "unreadable")


def cached(web: Gateway, service: Service, value: str | bytes) -> tuple[object, str]:
    """What is shown of a conversation whose key holds `value`."""
    conversation_id = f"cache {value[:20]!r}"
    redirect(service, conversation_id, "billing")
    service.cache.set(f"ai_control_{conversation_id}", value)
    body = web.get(f"/conversations/{quote(conversation_id)}").body
    return body["cache"], body["cache_status"]


def test_an_id_may_hold_a_slash(web: Gateway, private: Service) -> None:
    """Every id that the contract allows can be read."""
    redirect(private, "a/b گفتگو", "billing")
    assert web.get(f"/conversations/{quote('a/b گفتگو', safe='')}").body["state"]["conversation_id"] == "a/b گفتگو"


def test_an_unknown_conversation_is_404(web: Gateway) -> None:
    """The answer is JSON and names the id."""
    answer = web.get("/conversations/nobody")
    assert (answer.status, json.loads(answer.body)) == (404, {"detail": "there is no conversation 'nobody'"})


def test_an_impossible_id_is_refused(web: Gateway) -> None:
    """NUL, which no text in PostgreSQL holds, is a client's error and not ours."""
    assert web.get("/conversations/a%00b").status == 422
    with web.socket("?owner_id=a%00b") as live, pytest.raises(ConnectionClosed, match="4403"):
        live.recv(timeout=SOON)


def test_the_destinations_are_those_of_the_settings(web: Gateway) -> None:
    """Value and label, in the order of the settings."""
    answer = web.get("/destinations").body
    assert answer[0] == {"value": "ai", "label": "AI Assistant"}
    assert {one["value"]: one["label"] for one in answer} == DESTINATIONS


def test_health_depends_on_nothing(service: Service) -> None:
    """A gateway that reaches neither Redis nor PostgreSQL starts, lives and says so."""
    nowhere = f"127.0.0.1:{free_port(None)}"
    with gateway(service, REDIS_URL=f"redis://{nowhere}/0", DATABASE_URL=f"postgresql://{nowhere}/none") as web:
        assert (web.get("/healthz").status, web.get("/healthz").body) == (200, {"status": "ok"})


def test_only_this_machine_is_listened_to(web: Gateway) -> None:
    """A page of the web reaches it neither by a name for 127.0.0.1 nor by a WebSocket of its own; local pages do."""
    assert web.get("/destinations", Host="rebound.example").status == 400
    for origin in ("https://elsewhere.example", "null", "http://["):
        with pytest.raises(InvalidStatus, match="403"), web.socket(origin=origin):
            pass
    with web.socket(origin="http://localhost:3000") as live:
        snapshot(live)
