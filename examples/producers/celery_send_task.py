"""A Celery application with a default configuration redirects a conversation: by the task's name, no code shared.

    BROKER_URL=amqp://guest:guest@127.0.0.1// python celery_send_task.py abc123 billing

It declares `redirects` as Celery does by default. Where REDIRECT_QUEUE_TYPE is set, say here what it says:
`producer.conf.task_create_missing_queue_type = "quorum"`.
"""

import os
import sys
from datetime import UTC, datetime
from uuid import uuid4

from celery import Celery

producer = Celery("workflows", broker=os.environ["BROKER_URL"])
# On RabbitMQ: return only once the broker has the message. Redis answers each command anyway.
producer.conf.broker_transport_options = {"confirm_publish": True} if "amqp" in os.environ["BROKER_URL"] else {}


def redirect(conversation_id: str, destination: str) -> str:
    """Send one event; its event_id, once the broker has it. To send it again, send it with the same event_id."""
    event = {
        "event_id": str(uuid4()),
        "conversation_id": conversation_id,
        "destination": destination,
        "occurred_at": datetime.now(UTC).isoformat(),
        "source": "examples/celery_send_task",
    }
    # Both times, or a broker that takes nothing holds the caller for ever.
    bounded = {"timeout": 5, "confirm_timeout": 5}
    producer.send_task("redirect_conversation", args=[event], queue="redirects", **bounded)
    return event["event_id"]


if __name__ == "__main__":
    redirect(*sys.argv[1:3])
