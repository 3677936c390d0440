"""What a token shows, and what it lets its bearer do."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.gateways import SOON, Gateway, item, of_version, publish, receive, redirect, snapshot
from tests.integration.posting import event, outbox, post
from tests.integration.tokens import PRODUCER, asking, bearer, closed_with, get, offering, token
from tests.service import Service
from worker.gateway.pages import cursor

TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    """A gateway that asks for tokens, over one conversation each of two owners and one of nobody."""
    for name, owner in (("ours", "7"), ("theirs", "8"), ("nobodys", None)):
        redirect(private, name, "billing", owner)
    with asking(private) as web:
        yield web


def listed(web: Gateway, shown: str, query: str = "") -> list[str]:
    return [one["conversation_id"] for one in get(web, f"/conversations{query}", shown).body["conversations"]]


# Another owner's conversation.


def test_a_snapshot_has_none_of_another_owner(web: Gateway) -> None:
    """Nor a conversation that has no owner."""
    with web.socket(**offering(token("7"))) as live:
        assert [one["conversation_id"] for one in snapshot(live)] == ["ours"]


def test_no_frame_comes_of_another_owner(service: Service) -> None:
    """What is published of others passes by, and the own frame behind it arrives."""
    ours, *others = (redirect(service, f"of {owner}", "billing", owner) for owner in ("7", "8", None))
    with asking(service) as web, web.socket(**offering(token("7"))) as live:
        assert snapshot(live) == [item(ours)]
        publish(service, *(of_version(one, 2) for one in others), of_version(ours, 2))
        assert live.recv(timeout=SOON) == of_version(ours, 2)


def test_a_page_has_none_of_another_owner(web: Gateway) -> None:
    """Also where the place at which it begins was made up."""
    with web.socket(**offering(token("7"))) as live:
        snapshot(live)
        live.send(json.dumps({"type": "page", "after": cursor({"updated_at": TOMORROW, "conversation_id": "z"})}))
        assert [one["conversation_id"] for one in receive(live)["conversations"]] == ["ours"]


def test_the_list_has_none_of_another_owner(web: Gateway) -> None:
    """Whatever narrows it."""
    assert listed(web, token("7")) == listed(web, token("7"), "?destination=billing") == ["ours"]
    assert listed(web, token("7"), "?behind=true") == listed(web, token("7"), "?owner_id=7") == ["ours"]
    assert listed(web, token("*")) == ["nobodys", "theirs", "ours"]


@pytest.mark.parametrize("path", ["/conversations/{}", "/conversations/{}/redirects"])
@pytest.mark.parametrize("name", ["theirs", "nobodys"])
def test_a_conversation_of_another_owner_is_as_good_as_unknown(web: Gateway, name: str, path: str) -> None:
    """404, and word for word as for one that does not exist."""
    answer, unknown = (get(web, path.format(one), token("7")) for one in (name, "nowhere"))
    assert (answer.status, answer.body.replace(name, "nowhere")) == (404, unknown.body)
    assert get(web, path.format(name), token("*")).status == get(web, path.format("ours"), token("7")).status == 200


def test_to_ask_for_another_owner_is_refused(web: Gateway) -> None:
    """403 over HTTP, 4403 on a socket."""
    assert get(web, "/conversations?owner_id=8", token("7")).status == 403
    assert closed_with(web, token("7"), "?owner_id=8") == 4403


def test_an_owner_with_a_long_name_is_refused_as_well(web: Gateway) -> None:
    """A close frame has room for 123 bytes, not characters, of reason."""
    assert closed_with(web, token("7"), "?owner_id=" + "%D8%B3" * 200) == 4403


def test_what_counts_everybody_is_for_who_sees_everybody(web: Gateway) -> None:
    """`/activity` is 403 for a token of some owners, or of some conversations."""
    assert get(web, "/activity", token("7")).status == 403
    assert get(web, "/activity", token("*", conversation_ids=["ours"])).status == 403
    assert get(web, "/activity", token("*")).status == 200


# Some conversations.


def test_conversation_ids_narrow(web: Gateway) -> None:
    """Of the owners' conversations only those: one that is named and another owner's stays unseen."""
    narrow = token("7", conversation_ids=["ours", "theirs"])
    assert listed(web, narrow) == ["ours"]
    assert get(web, "/conversations/theirs", narrow).status == 404
    with web.socket(**offering(narrow)) as live:
        assert [one["conversation_id"] for one in snapshot(live)] == ["ours"]


def test_conversation_ids_narrow_what_is_published(service: Service) -> None:
    """A frame of another conversation of the same owner passes by."""
    one, other = redirect(service, "one", "billing"), redirect(service, "other", "billing")
    with asking(service) as web, web.socket(**offering(token("7", conversation_ids=["one"]))) as live:
        assert snapshot(live) == [item(one)]
        publish(service, of_version(other, 2), of_version(one, 2))
        assert live.recv(timeout=SOON) == of_version(one, 2)


def test_no_conversation_ids_are_none(web: Gateway) -> None:
    """An empty array shows nothing."""
    assert listed(web, token("*", conversation_ids=[])) == []


# Sending.


def test_without_send_nothing_is_sent(web: Gateway, private: Service) -> None:
    """403, and nothing is kept."""
    before = kept(private)
    assert post(web, event("e1", owner_id="7"), **bearer(token("7", scope="operate"))).status == 403
    assert kept(private) == before


def test_with_send_an_owners_conversation_is_redirected(web: Gateway, private: Service) -> None:
    """202, and it is in the outbox."""
    answer = post(web, event("sent", owner_id="7"), **bearer(token("7", scope="send")))
    assert (answer.status, answer.body["accepted"]) == (202, ["sent"])
    assert "sent" in [one["event_id"] for one in outbox(private)]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(event("other", owner_id="8"), id="of another owner"),
        pytest.param(event("other"), id="of no owner"),
        pytest.param(event("other", owner_id="*"), id="of everybody"),
        pytest.param({"owner_id": "8", "junk": 1}, id="refused, of another owner"),
        pytest.param(5, id="no event"),
    ],
)
def test_one_event_that_the_token_does_not_show_is_403_for_all(web: Gateway, private: Service, other: object) -> None:
    """Nothing of the request is kept: not the good event before it, and not as a rejected one."""
    before = kept(private)
    answer = post(web, [event("good", owner_id="7"), other], **bearer(token("7", scope="send")))
    assert answer.status == 403, answer
    assert kept(private) == before


def test_an_owner_within_a_cloudevent_is_an_owner(web: Gateway, private: Service) -> None:
    """403 for another one; 202 for the token's own."""
    cloud = {"specversion": "1.0", "id": "cloud", "source": "s", "type": "workflow.redirect", "subject": "ours"}
    kind, sender, before = "application/cloudevents+json", bearer(token("7", scope="send")), kept(private)
    assert post(web, cloud | {"data": {"destination": "ai", "owner_id": "8"}}, kind, **sender).status == 403
    assert kept(private) == before
    assert post(web, cloud | {"data": {"destination": "ai", "owner_id": "7"}}, kind, **sender).status == 202


def test_a_sender_of_some_conversations_sends_to_no_other(web: Gateway) -> None:
    """403 for another conversation, also of the same owner."""
    narrow = bearer(token("7", scope="send", conversation_ids=["ours"]))
    assert post(web, event("e2", "not ours", owner_id="7"), **narrow).status == 403
    assert post(web, event("e2", "ours", owner_id="7"), **narrow).status == 202


def test_who_may_send_for_everybody_need_not_name_an_owner(web: Gateway) -> None:
    """Also where the token is narrowed to some conversations."""
    assert post(web, event("e3"), **bearer(token("*", scope="send"))).status == 202
    assert post(web, event("e4", "ours"), **bearer(token("*", scope="send", conversation_ids=["ours"]))).status == 202


def test_a_producers_token_sends_and_reads_nothing(web: Gateway) -> None:
    """It is no JSON Web Token: 401 for a read."""
    assert post(web, event("e5"), **bearer(PRODUCER)).status == 202
    assert get(web, "/conversations", PRODUCER).status == 401


# Operating.


def test_without_operate_nothing_is_retried(web: Gateway) -> None:
    """403; with it 202, and 404 for another owner's conversation."""
    for scope, name, status in (("send", "ours", 403), ("operate", "ours", 202), ("send operate", "theirs", 404)):
        assert post(web, b"", None, f"/conversations/{name}/retry", **bearer(token("7", scope=scope))).status == status


def kept(service: Service) -> tuple[int, int]:
    """How many events, and how many rejected ones, are kept."""
    return len(outbox(service)), len(service.rejected())
