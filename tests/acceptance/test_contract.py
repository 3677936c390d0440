"""The contract, as an outside application sees it: a Celery producer, four places to look."""

import json

from tests.eventually import eventually
from tests.service import Service


def test_an_outside_celery_app_redirects_by_name(running: Service) -> None:
    """State, cache key, live frame and record are as in section 3 after a plain `send_task`."""
    with running.cache.pubsub() as live:  # type: ignore[no-untyped-call]
        live.subscribe("conversations.7")
        live.get_message(timeout=5)
        running.send(
            {
                "event_id": "wf42-7f3c",
                "conversation_id": "abc123",
                "destination": "billing",
                "occurred_at": "2026-11-22T10:00:00.120Z",
                "owner_id": "7",
                "actor": {"type": "workflow", "id": "42"},
                "metadata": {"language": "fa", "order": 9917},
            }
        )
        message = eventually(lambda: live.get_message(timeout=1))
        eventually(running.agrees)

    assert running.cached("abc123") == {
        "ai_enabled": False,
        "status": "support_active",
        "destination": "billing",
        "version": 1,
    }
    assert 0 < running.cache.ttl("ai_control_abc123") <= 86_400
    frame = json.loads(message["data"])
    assert frame.pop("occurred_at").startswith("2026-11-22T10:00:00.12")
    assert frame == {
        "type": "conversation_updated",
        "conversation_id": "abc123",
        "owner_id": "7",
        "status": "support_active",
        "ai_enabled": False,
        "destination": "billing",
        "version": 1,
        "event_id": "wf42-7f3c",
    }
    record = running.record("abc123")
    assert record is not None
    assert (record["owner_id"], record["status"], record["ai_enabled"]) == ("7", "support_active", False)
