"""The live channel as a browser meets it: a snapshot, then what is published."""

import json

import pytest
from sqlalchemy import text
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.eventually import eventually
from tests.integration.gateways import (
    SOON,
    Gateway,
    gateway,
    item,
    of_version,
    publish,
    receive,
    redirect,
    snapshot,
    unread,
    waiting_for_a_lock,
)
from tests.integration.ledgers import event, ledger_of
from tests.service import Service
from worker.gateway.feed import BACKLOG
from worker.tasks.websocket import channel


def test_a_snapshot_comes_first_and_then_what_is_published(service: Service) -> None:
    """A socket first gets every conversation, newest first, then each frame byte for byte."""
    first, second = redirect(service, "abc123", "billing"), redirect(service, "گفتگو", "sales", owner_id=None)
    with gateway(service) as web, web.socket() as live:
        assert snapshot(live) == [item(second), item(first)]
        moved = redirect(service, "abc123", "ai")
        publish(service, moved)
        assert live.recv(timeout=SOON) == moved


def test_a_redirect_reaches_the_browser(service: Service) -> None:
    """An event that a producer sends to a real worker arrives at an open socket."""
    with service.worker(), gateway(service) as web, web.socket("?owner_id=7") as live:
        assert snapshot(live) == []
        service.send({"event_id": "e1", "conversation_id": "c1", "destination": "billing", "owner_id": "7"})
        message = receive(live)
    assert message.pop("occurred_at")
    assert message == {
        "type": "conversation_updated",
        "conversation_id": "c1",
        "owner_id": "7",
        "status": "support_active",
        "ai_enabled": False,
        "destination": "billing",
        "version": 1,
        "event_id": "e1",
    }


def test_what_happens_while_the_snapshot_is_read_is_neither_lost_nor_doubled(service: Service) -> None:
    """Of two frames published during the read, the one that the snapshot holds is dropped and the other follows it."""
    first, other = redirect(service, "c1", "billing"), redirect(service, "c2", "billing")
    held, newer = of_version(first, 2), of_version(other, 3)
    with gateway(service) as web, web.socket() as witness:
        assert snapshot(witness) == [item(other), item(first)]
        with service.engine.begin() as holding:
            holding.execute(text("LOCK TABLE conversation_states IN ACCESS EXCLUSIVE MODE"))
            with web.socket() as live:
                eventually(lambda: waiting_for_a_lock(service))
                publish(service, held, newer)
                # One loop hands a frame to all feeds: what the witness has, the other feed has.
                assert (witness.recv(timeout=SOON), witness.recv(timeout=SOON)) == (held, newer)
                holding.execute(text("UPDATE conversation_states SET version = 2"))
                holding.commit()
                assert {one["version"] for one in snapshot(live)} == {2}
                publish(service, of_version(first, 4))
                assert (live.recv(timeout=SOON), live.recv(timeout=SOON)) == (newer, of_version(first, 4))


def test_a_socket_of_one_owner_sees_no_other(web: Gateway, private: Service) -> None:
    """`owner_id` limits the snapshot and the frames."""
    frames = [redirect(private, f"of {owner}", "billing", owner) for owner in ("ours", "theirs", None)]
    with web.socket("?owner_id=ours") as live:
        assert snapshot(live) == [item(frames[0])]
        ours, theirs, nobodys = (of_version(one, 2) for one in frames)
        publish(private, theirs, nobodys, ours)
        assert live.recv(timeout=SOON) == ours


def test_a_version_that_was_sent_is_not_sent_again(web: Gateway, private: Service) -> None:
    """Duplicates and late frames are dropped for each conversation."""
    one, other = redirect(private, "sent 1", "billing", "sent"), redirect(private, "sent 2", "billing", "sent")
    with web.socket("?owner_id=sent") as live:
        assert len(snapshot(live)) == 2
        publish(private, of_version(one, 3), of_version(one, 3), of_version(one, 2), of_version(other, 2))
        assert live.recv(timeout=SOON) == of_version(one, 3)
        assert live.recv(timeout=SOON) == of_version(other, 2)


@pytest.mark.parametrize("junk", [b"", b"no JSON", b"\xff\xfe", b"[]", b'{"version": 1}', b"[" * 100_000])
def test_what_is_no_frame_is_passed_over(web: Gateway, private: Service, junk: bytes) -> None:
    """Junk on the channel is dropped, and the frame behind it arrives."""
    good = redirect(private, f"after {junk[:9]!r}", "billing")
    with web.socket() as live:
        snapshot(live)
        private.cache.publish("conversations.7", junk)
        publish(private, of_version(good, 2))
        assert receive(live)["version"] == 2


def test_updates_of_one_conversation_within_a_moment_come_as_the_newest(web: Gateway, private: Service) -> None:
    """Of a burst of 3,000 the first comes at once and the last at the end, and never an older one after a newer."""
    first = redirect(private, "burst", "billing", "burst")
    with web.socket("?owner_id=burst") as live:
        snapshot(live)
        with private.cache.pipeline(transaction=False) as pipeline:
            for version in range(2, 3002):
                pipeline.publish(channel("burst"), of_version(first, version))
            pipeline.execute()
        versions = [receive(live)["version"]]
        while versions[-1] < 3001:
            versions.append(receive(live)["version"])
    assert versions[0] == 2
    assert versions == sorted(set(versions))
    assert len(versions) < 300


def test_a_burst_of_many_conversations_is_passed_on_whole(web: Gateway, private: Service) -> None:
    """A pipeline of many frames overflows nobody who reads: they all come, and no snapshot in their place."""
    first = redirect(private, "many", "billing", "many")
    with web.socket("?owner_id=many") as live:
        snapshot(live)
        with private.cache.pipeline(transaction=False) as pipeline:
            for number in range(3000):
                pipeline.publish(channel("many"), of_version(first, 2, conversation_id=f"many {number}"))
            pipeline.execute()
        assert [receive(live).get("conversation_id") for _ in range(3000)] == [f"many {n}" for n in range(3000)]


def test_a_slow_reader_delays_nobody_and_gets_a_snapshot_instead_of_its_backlog(service: Service) -> None:
    """While one socket is not read, another gets each frame at once; the slow one then gets what holds now."""
    first = redirect(service, "c1", "billing")
    frames = [
        of_version(first, 2, conversation_id=f"c{number}", padding="x" * 100_000)
        for number in range(2, 2 + 2 * BACKLOG)
    ]
    with gateway(service) as web, web.socket() as quick, unread(web) as slow:
        snapshot(quick), snapshot(slow)
        for one in frames:
            publish(service, one)
            assert quick.recv(timeout=SOON) == one
        with service.engine.begin() as connection:
            connection.execute(text("UPDATE conversation_states SET version = 351"))
        before = frames_until_snapshot_of(351, slow)
        assert before == [f"c{number}" for number in range(2, 2 + len(before))]
        assert len(before) < BACKLOG, "the backlog was sent"


def frames_until_snapshot_of(version: int, live: ClientConnection) -> list[str]:
    before = []
    while (message := receive(live))["type"] != "snapshot":
        before.append(message["conversation_id"])
    assert [one["version"] for one in message["conversations"]] == [version]
    return before


def test_older_conversations_come_in_pages(service: Service) -> None:
    """A snapshot of more than it holds says where it goes on; every conversation comes once, the newest first."""
    ids = [f"c{number:03}" for number in range(2 * BACKLOG + 5)]
    for start in range(0, len(ids), 50):  # those of one transaction have one time
        ledger_of(service).accept(
            [event(f"e-{each}", "billing", each, owner_id="7") for each in ids[start : start + 50]]
        )
    with gateway(service) as web, web.socket() as live:
        page = receive(live)
        seen = [one["conversation_id"] for one in page["conversations"]]
        assert len(seen) == BACKLOG
        while "next" in page:
            live.send(json.dumps({"type": "page", "after": page["next"]}))
            page = receive(live)
            assert page["type"] == "page"
            seen += [one["conversation_id"] for one in page["conversations"]]
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    "said",
    ["no JSON", "[]", "{}", '{"type": "page"}', '{"type": "page", "after": "x"}', '{"type": "page", "after": 5}'],
)
def test_a_message_that_says_nothing_ends_the_socket(web: Gateway, said: str) -> None:
    """4400, and the reason in words."""
    with web.socket() as live:
        live.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                receive(live)
    assert closed.value.rcvd and closed.value.rcvd.code == 4400


def test_bytes_are_no_message(web: Gateway) -> None:
    """4400 too, and nothing breaks."""
    with web.socket() as live:
        live.send(b"\xff\xfe")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                receive(live)
    assert closed.value.rcvd and closed.value.rcvd.code == 4400
