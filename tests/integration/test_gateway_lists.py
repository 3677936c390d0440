"""The lists over HTTP: the inbox, the story of one conversation, what happens lately; and trying again."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text

from tests.eventually import eventually
from tests.integration.gateways import Gateway, gateway, redirect
from tests.integration.ledgers import event, file_effect, ledger_of
from tests.service import Service


@pytest.fixture
def own(service: Service) -> Iterator[Gateway]:
    with gateway(service) as web:
        yield web


def listed(web: Gateway, query: str = "") -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        after = f"&after={quote(page['next'])}" if page["next"] else ""
        answer = web.get(f"/conversations?limit=2{query}{after}")
        assert answer.status == 200, answer
        page = answer.body
        ids += [one["conversation_id"] for one in page["conversations"]]
    return ids


def test_the_inbox_comes_in_pages_and_is_narrowed(service: Service, own: Gateway) -> None:
    """By owner, destination, status, and by what is behind."""
    for number, (destination, owner) in enumerate([("ai", "7"), ("billing", "7"), ("billing", "8"), ("sales", None)]):
        redirect(service, f"c{number}", destination, owner)
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM side_effects WHERE conversation_ids <> ARRAY['c2']"))
    assert listed(own) == ["c3", "c2", "c1", "c0"]
    assert listed(own, "&owner_id=7") == ["c1", "c0"]
    assert listed(own, "&destination=billing") == ["c2", "c1"]
    assert listed(own, "&destination=billing&owner_id=7") == ["c1"]
    assert listed(own, "&status=support_active") == ["c3", "c2", "c1"]
    assert listed(own, "&status=active") == ["c0"]
    assert listed(own, "&behind=true") == ["c2"]
    assert listed(own, "&destination=nowhere") == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "status=x", "behind=perhaps", "after=x", "after=W10=", "owner_id=a%00b"]
)
def test_what_asks_for_nothing_is_told_what_would_be_right(web: Gateway, query: str) -> None:
    """422, never 500."""
    assert web.get(f"/conversations?{query}").status == 422


def test_the_story_of_a_conversation_has_what_was_refused(service: Service, own: Gateway) -> None:
    """Applied, no-op, superseded and refused, the newest first, each as far as it is known, in pages."""
    ledger = ledger_of(service)
    ledger.accept([event("e1", "billing", occurred_at="2026-01-02T00:00:00Z", reason="first")])
    ledger.accept([event("e2", "billing", occurred_at="2026-01-03T00:00:00Z")])
    ledger.accept([event("e3", "sales", occurred_at="2026-01-01T00:00:00Z")])
    ledger.accept([event("e4", "nowhere", reason="lost")])
    ledger.accept([event("e5", conversation_id="another")])
    story: list[dict[str, Any]] = []
    after = ""
    while True:
        page = own.get(f"/conversations/c1/redirects?limit=1{after}").body
        story += page["redirects"]
        if page["next"] is None:
            break
        after = f"&after={quote(page['next'])}"
    assert [(one["event_id"], one["outcome"], one["code"]) for one in story] == [
        ("e4", "rejected", "unknown_destination"),
        ("e3", "superseded", "stale"),
        ("e2", "noop", "same_destination"),
        ("e1", "applied", None),
    ]
    assert (story[0]["destination"], story[0]["reason"]) == ("nowhere", "lost")
    assert "should be one of" in story[0]["error"]
    assert story[3]["reason"] == "first"


def test_copies_say_how_they_stand(service: Service, own: Gateway) -> None:
    """Up to date, behind, retrying or dead, by the side effects that name the conversation."""
    redirect(service, "c1", "billing")
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM side_effects WHERE kind = 'cache'"))
        connection.execute(
            text("UPDATE side_effects SET failures = 3, last_error = 'refused' WHERE kind = 'websocket'"),
        )
    copies = own.get("/conversations/c1").body["copies"]
    assert {kind: copy["status"] for kind, copy in copies.items()} == {
        "cache": "up_to_date",
        "websocket": "retrying",
        "record": "behind",
    }
    assert (copies["websocket"]["failures"], copies["websocket"]["error"]) == (3, "refused")
    assert datetime.fromisoformat(copies["websocket"]["due_at"]).tzinfo


def test_retry_now_revives_what_is_dead(service: Service, own: Gateway) -> None:
    """A dead copy, which no schedule would try again, is written within seconds."""
    redirect(service, "c1", "billing")
    with service.engine.begin() as connection:
        connection.execute(text("DELETE FROM side_effects"))
    file_effect(service, "c1", state="dead", failures=9, last_error="no")
    assert own.get("/conversations/c1").body["copies"]["cache"]["status"] == "dead"
    with service.worker():
        answer = own.get("/conversations/c1/retry", "POST")
        assert (answer.status, answer.body) == (202, {"rung": ["cache"]})
        eventually(lambda: own.get("/conversations/c1").body["copies"]["cache"]["status"] == "up_to_date")
    assert service.cached("c1")


def test_retry_of_what_is_up_to_date_rings_nothing(web: Gateway, private: Service) -> None:
    """It is answered, and says so; an unknown conversation is 404."""
    redirect(private, "fine", "billing")
    with private.engine.begin() as connection:
        connection.execute(text("DELETE FROM side_effects WHERE conversation_ids = ARRAY['fine']"))
    assert web.get("/conversations/fine/retry", "POST").body == {"rung": []}
    assert web.get("/conversations/nobody/retry", "POST").status == 404


def test_activity_counts_by_minute_and_destination(service: Service, own: Gateway) -> None:
    """Thirty minutes, the last one this one; what is behind and dead by kind, and since when the oldest waits."""
    for number, destination in enumerate(["billing", "billing", "ai"]):
        redirect(service, f"c{number}", destination)
    file_effect(service, "c1", "c2", kind="record", state="dead", last_error="no")
    body = own.get("/activity").body
    assert len(body["minutes"]) == 30
    totals: dict[str, int] = {}
    for minute in body["minutes"][-2:]:
        for destination, count in minute["counts"].items():
            totals[destination] = totals.get(destination, 0) + count
    assert totals == {"billing": 2, "ai": 1}
    assert (body["behind"], body["dead"]) == ({"cache": 3, "websocket": 3, "record": 3}, {"record": 2})
    assert datetime.fromisoformat(body["oldest_waiting"])
    redirect(service, "c9", "sales")
    assert any("sales" in minute["counts"] for minute in own.get("/activity").body["minutes"])


def test_ready_says_what_is_wrong(service: Service, own: Gateway) -> None:
    """A schema that is not the newest is not ready, and the cure is named."""
    assert own.get("/readyz").body == {
        "status": "ready",
        "checks": {"database": "ok", "schema": "ok", "redis": "ok", "live": "ok"},
    }
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    answer = own.get("/readyz")
    assert answer.status == 503
    assert "redirect-worker migrate" in answer.body


def test_the_page_may_run_its_own_script_and_nothing_else(web: Gateway) -> None:
    """One file, with a policy that names its script and its style by their hashes."""
    answer = web.get("/")
    policy = answer.headers["content-security-policy"]
    assert answer.headers["content-type"].startswith("text/html")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert web.get("/development-token").status == 404
