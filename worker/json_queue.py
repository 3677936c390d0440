"""The JSON queue of the contract, section 3.3: where producers in any language put their events. Opens nothing."""

from typing import Any

from kombu import Exchange, Queue

ROUTING_KEY = "workflow.redirect"
EXCHANGE = Exchange("workflow", type="topic", durable=True)
# What was delivered too often without being acknowledged: an intake that dies of it each time. A person must look.
DEAD_LETTERS = Queue(
    "workflow.redirects.dead",
    Exchange("workflow.dead", type="fanout", durable=True),
    queue_arguments={"x-queue-type": "quorum"},
)
# RabbitMQ 4 has a limit of its own, and drops silently at it where no exchange takes the dead letters.
DELIVERY_LIMIT = 20
QUEUE = Queue(
    "workflow.redirects",
    EXCHANGE,
    routing_key=ROUTING_KEY,
    queue_arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_LETTERS.exchange.name,
    },
)


def declare(connection: Any) -> list[str]:
    """Declare the exchange and the queues on a kombu connection; returns the queues' names.

    Redis has no dead letters, so there the second queue is left out.
    """
    queues = [QUEUE] if connection.transport.driver_type == "redis" else [DEAD_LETTERS, QUEUE]
    for queue in queues:
        queue.bind(connection.default_channel).declare()
    return [queue.name for queue in queues]
