"""What a person sees and does on the page."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from tests.browser.conftest import DEVELOPMENT, SOON, Inbox
from tests.integration.gateways import Gateway, gateway, of_version, publish, redirect
from tests.integration.ledgers import file_effect
from tests.service import Service
from worker import embedded

Look = Callable[..., Inbox]
PERSIAN = "مشتری می‌خواهد با یک انسان صحبت کند"

pytestmark = pytest.mark.timeout(240)


def test_the_inbox_shows_what_holds_and_changes_live(service: Service, web: Gateway, look: Look) -> None:
    """Who has each conversation, at once; and a redirect without a reload, with its version."""
    redirect(service, "abc123", "billing")
    inbox = look(web)
    expect(inbox.row("abc123")).to_have_attribute("data-version", "1")
    expect(inbox.row("abc123")).to_contain_text("Billing")
    publish(service, redirect(service, "abc123", "ai"))
    expect(inbox.row("abc123")).to_have_attribute("data-version", "2")
    expect(inbox.row("abc123")).to_contain_text("AI Assistant")
    publish(service, redirect(service, "new-one", "sales"))
    expect(inbox.row("new-one")).to_be_visible()


def test_the_inbox_is_narrowed_by_destination(service: Service, web: Gateway, look: Look) -> None:
    """Only those that are there; what moves away goes, and what moves there comes."""
    redirect(service, "c1", "billing"), redirect(service, "c2", "sales")
    inbox = look(web)
    expect(inbox.row("c2")).to_be_visible()
    inbox.part("filter-destination").select_option("billing")
    expect(inbox.row("c2")).to_have_count(0)
    expect(inbox.row("c1")).to_be_visible()
    publish(service, redirect(service, "c2", "billing"))
    expect(inbox.row("c2")).to_be_visible()
    publish(service, redirect(service, "c1", "ai"))
    expect(inbox.row("c1")).to_have_count(0)


def test_a_redirect_is_sent_from_the_page(service: Service, whole: Gateway, look: Look) -> None:
    """Its outcome is told in words, the row and the three copies follow."""
    inbox = look(whole)
    form = inbox.part("send-form")
    form.get_by_label(re.compile("conversation", re.IGNORECASE)).fill("from-page")
    form.get_by_label(re.compile("destination|to", re.IGNORECASE)).select_option("technical")
    form.get_by_label(re.compile("reason", re.IGNORECASE)).fill(PERSIAN)
    form.get_by_role("button").last.click()
    expect(inbox.part("send-outcome")).to_contain_text(re.compile("applied", re.IGNORECASE))
    expect(inbox.row("from-page")).to_contain_text(PERSIAN)
    inbox.row("from-page").click()
    for kind in ("cache", "websocket", "record"):
        expect(inbox.part(f"copy-{kind}")).to_have_attribute("data-status", "up_to_date")
    assert service.state("from-page")


def test_the_story_of_a_conversation_tells_every_outcome(service: Service, whole: Gateway, look: Look) -> None:
    """Applied, no-op, superseded and refused, and why."""
    days = {"e1": ("billing", "02"), "e2": ("billing", "03"), "e3": ("sales", "01"), "e4": ("nowhere", "04")}
    service.send(
        *[
            {"event_id": e, "conversation_id": "c1", "destination": to, "occurred_at": f"2026-01-{day}T00:00:00Z"}
            for e, (to, day) in days.items()
        ]
    )
    inbox = look(whole)
    inbox.row("c1").click()
    for outcome in ("applied", "noop", "superseded", "rejected"):
        entry = inbox.page.locator(f'[data-testid="timeline-entry"][data-outcome="{outcome}"]')
        expect(entry).to_have_count(1, timeout=SOON)
    expect(inbox.part("timeline")).to_contain_text("unknown_destination")


def test_copies_that_are_behind_say_so_and_are_retried(service: Service, whole: Gateway, look: Look) -> None:
    """Dead, with its error, in words; and *retry now* heals it before the reader's eyes."""
    service.send({"event_id": "e1", "conversation_id": "c1", "destination": "billing"})
    inbox = look(whole)
    inbox.row("c1").click()
    expect(inbox.part("copy-cache")).to_have_attribute("data-status", "up_to_date")
    file_effect(service, "c1", state="dead", failures=9, last_error="ConnectionError: no such host")
    inbox.page.reload()
    expect(inbox.part("copy-cache")).to_have_attribute("data-status", "dead")
    expect(inbox.part("copy-cache")).to_contain_text("no such host")
    inbox.part("retry").first.click()
    expect(inbox.part("copy-cache")).to_have_attribute("data-status", "up_to_date")


def test_redis_stops_and_starts(own_cache: tuple[Service, Path], look: Look) -> None:
    """The page says that live updates are paused, then goes on, and has what moved meanwhile."""
    service, home = own_cache
    redirect(service, "c1", "billing")
    with gateway(service, **DEVELOPMENT) as web:
        inbox = look(web)
        expect(inbox.row("c1")).to_have_attribute("data-version", "1")
        embedded.stop(home, ["cache"])
        expect(inbox.part("status")).to_contain_text("paused")
        redirect(service, "c1", "ai")
        embedded.start(home, ["cache"])
        expect(inbox.part("status")).not_to_contain_text("paused")
        expect(inbox.row("c1")).to_have_attribute("data-version", "2")


def test_the_gateway_is_killed_and_comes_back(service: Service, look: Look) -> None:
    """The page connects again by itself, and has what moved meanwhile."""
    redirect(service, "c1", "billing")
    with gateway(service, **DEVELOPMENT) as first:
        inbox = look(first)
        expect(inbox.row("c1")).to_have_attribute("data-version", "1")
        first.process.kill()
    expect(inbox.part("status")).to_contain_text(re.compile("reconnecting", re.IGNORECASE))
    redirect(service, "c1", "sales")
    again = DEVELOPMENT | {"PORT": str(first.port)}
    with service.running("worker.gateway", ready="gateway ready", **again):
        expect(inbox.row("c1")).to_have_attribute("data-version", "2", timeout=60_000)
        expect(inbox.part("status")).not_to_contain_text(re.compile("reconnecting", re.IGNORECASE))


def test_a_tab_that_is_slow_shows_the_newest_and_stays_small(service: Service, web: Gateway, look: Look) -> None:
    """Thousands of updates of hundreds of conversations while it does nothing: then what holds, in a bounded list."""
    first = redirect(service, "c1", "billing")
    inbox = look(web)
    expect(inbox.row("c1")).to_be_visible()
    inbox.page.evaluate("setTimeout(() => { const end = Date.now() + 4000; while (Date.now() < end); }, 0)")
    for version in range(2, 102):
        publish_many(service, first, version, 30)
    publish(service, redirect(service, "c1", "sales"))
    expect(inbox.row("c1")).to_have_attribute("data-version", "2", timeout=60_000)
    publish_many(service, first, 30, 500)
    expect(inbox.row("busy-499")).to_be_visible(timeout=60_000)
    assert inbox.part("row").count() <= 250


def publish_many(service: Service, like: str, version: int, count: int) -> None:
    with service.cache.pipeline(transaction=False) as pipeline:
        for number in range(count):
            pipeline.publish("conversations.7", of_version(like, version, conversation_id=f"busy-{number}"))
        pipeline.execute()


def test_text_of_both_directions_stands_side_by_side(service: Service, web: Gateway, look: Look) -> None:
    """Persian runs from the right inside its own box, and does not turn what stands beside it."""
    redirect(service, "گفتگو-۱", "billing")
    with service.engine.begin() as connection:
        connection.execute(text("UPDATE redirects SET reason = :reason"), {"reason": PERSIAN})
    inbox = look(web)
    reason = inbox.row("گفتگو-۱").get_by_text(PERSIAN)
    expect(reason).to_be_visible()
    expect(reason).to_have_css("direction", "rtl")
    expect(inbox.page.locator("body")).to_have_css("direction", "ltr")


def test_on_a_phone_nothing_is_wider_than_the_screen(service: Service, web: Gateway, look: Look) -> None:
    """At 360 px, the list and a conversation; the way back leads to the list."""
    redirect(service, "a-conversation-with-a-name-that-is-as-long-as-names-may-be-01234", "billing")
    inbox = look(web, viewport={"width": 360, "height": 740})
    row = inbox.part("row").first
    expect(row).to_be_visible()
    width = "document.scrollingElement.scrollWidth"
    assert inbox.page.evaluate(width) <= 360
    row.click()
    expect(inbox.part("copy-cache")).to_be_visible()
    assert inbox.page.evaluate(width) <= 360
    inbox.page.go_back()
    expect(inbox.part("row").first).to_be_visible()


def test_it_works_without_a_mouse(service: Service, web: Gateway, look: Look) -> None:
    """Tab reaches a conversation, Enter opens it, and one sees where one is."""
    redirect(service, "c1", "billing")
    inbox = look(web)
    expect(inbox.row("c1")).to_be_visible()
    for _ in range(40):
        inbox.page.keyboard.press("Tab")
        if inbox.page.evaluate("!!document.activeElement.closest('[data-testid=row]')"):
            break
    else:
        pytest.fail("no conversation was reached")
    outline = "(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.boxShadow; })()"
    assert inbox.page.evaluate(outline) != "nonenone"
    inbox.page.keyboard.press("Enter")
    expect(inbox.part("copy-cache")).to_be_visible()


def test_a_token_is_asked_for_where_none_is_given(service: Service, look: Look) -> None:
    """In production: a form; a token in the address's fragment is taken, and gone from the address."""
    redirect(service, "c1", "billing")
    with gateway(service, REDIRECT_JWT_SECRET=DEVELOPMENT["REDIRECT_JWT_SECRET"]) as web:
        inbox = look(web)
        expect(inbox.part("token-form")).to_be_visible()
        from worker.gateway.tokens import issue

        token = issue(DEVELOPMENT["REDIRECT_JWT_SECRET"], 600, ["7"])
        with_token = look(web, f"/#token={token}")
        expect(with_token.row("c1")).to_be_visible()
        assert "token" not in with_token.page.url
        assert json.dumps(with_token.page.url)


def test_the_ai_falls_silent_in_the_middle_of_a_reply(service: Service, whole: Gateway, look: Look) -> None:
    """A customer asks for a human: the reply that the AI was writing is not sent, and it writes no other."""
    inbox = look(whole, "/#c=demo-test")
    chat = inbox.part("chat")
    chat.get_by_role("textbox").fill("I want a human")
    chat.get_by_role("button", name=re.compile("send", re.IGNORECASE)).click()
    discarded = inbox.page.locator('[data-testid="chat-message"][data-from="ai"][data-state="discarded"]')
    expect(discarded).to_have_count(1, timeout=30_000)
    state = service.state("demo-test")
    assert state and not state["ai_enabled"]
    chat.get_by_role("textbox").fill("Are you still there?")
    chat.get_by_role("button", name=re.compile("send", re.IGNORECASE)).click()
    expect(chat).to_contain_text(re.compile("silent", re.IGNORECASE))
    expect(inbox.page.locator('[data-testid="chat-message"][data-from="ai"]')).to_have_count(1)
