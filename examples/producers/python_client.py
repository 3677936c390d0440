"""The client that comes with this service: bounded in time, confirmed, checked before anything is sent.

BROKER_URL=amqp://guest:guest@127.0.0.1// python python_client.py abc123 billing
"""

import os
import sys

from worker.client import BrokerUnavailable, RedirectClient


def redirect(conversation_id: str, destination: str) -> str:
    """Send one event; its event_id, once the broker has it."""
    with RedirectClient(os.environ["BROKER_URL"]) as client:
        try:
            return client.redirect(conversation_id, destination, reason="customer asked for a refund")
        except BrokerUnavailable as unavailable:
            # Keep these and send them later, as they are. Once more right now, for a connection that was just lost:
            return client.redirect_many(unavailable.events)[0]


if __name__ == "__main__":
    redirect(*sys.argv[1:3])
