"""A JSON message with kombu, on RabbitMQ or Redis: for Python programs without Celery.

BROKER_URL=amqp://guest:guest@127.0.0.1// python kombu_publish.py abc123 billing
"""

import os
import sys
from datetime import UTC, datetime
from uuid import uuid4

from kombu import Connection, Exchange, Producer, Queue

EXCHANGE = Exchange("workflow", type="topic", durable=True)
REDIS_QUEUE = Queue("workflow.redirects", EXCHANGE, routing_key="workflow.redirect")


def redirect(conversation_id: str, destination: str) -> str:
    """Send one event; its event_id, once the broker has it."""
    event = {
        "event_id": str(uuid4()),
        "conversation_id": conversation_id,
        "destination": destination,
        "occurred_at": datetime.now(UTC).isoformat(),
        "source": "examples/kombu_publish",
    }
    url = os.environ["BROKER_URL"]
    on_rabbitmq = url.startswith("amqp")
    with Connection(url, transport_options={"confirm_publish": True} if on_rabbitmq else {}) as connection:
        # On RabbitMQ `redirect-worker migrate` has declared all there is, and `mandatory` makes a missing queue an
        # error. On Redis kombu keeps the bindings itself, and a sender without them would send to nobody.
        Producer(connection, EXCHANGE, on_return=_nobody_listens if on_rabbitmq else None).publish(
            event,
            routing_key="workflow.redirect",
            serializer="json",
            delivery_mode="persistent",
            mandatory=on_rabbitmq,
            declare=[] if on_rabbitmq else [REDIS_QUEUE],
            timeout=5,
            confirm_timeout=5,
        )
    return event["event_id"]


def _nobody_listens(*_: object) -> None:
    raise RuntimeError("no queue is bound to workflow.redirect: run `redirect-worker migrate`")


if __name__ == "__main__":
    redirect(*sys.argv[1:3])
