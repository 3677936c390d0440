"""Make a RabbitMQ what docs/rabbitmq.md asks for, over its management API: the virtual host, the right, the policy.

Run again, it changes nothing. It needs BROKER_URL, whose user must be an administrator.
"""

import base64
import json
import os
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from worker.doctor_rabbitmq import POLICIES, REDIRECTS

EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
# What `redirect-worker doctor` looks for.
POLICY = {"pattern": f"^{REDIRECTS}$", "definition": POLICIES["quorum"], "apply-to": "queues"}


def main(broker_url: str, port: int = 15672) -> None:
    """Raises OSError when the API does not answer or refuses."""
    parts = urlsplit(broker_url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    vhost = parts.path.removeprefix("/")  # as in the URL: percent-encoded
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    for path, body in (
        # Celery producers with a default configuration then get quorum queues without knowing it.
        (f"vhosts/{vhost}", {"default_queue_type": "quorum"}),
        (f"permissions/{vhost}/{quote(user, safe='')}", EVERYTHING),
        (f"policies/{vhost}/{REDIRECTS}", POLICY),
    ):
        url = f"http://{parts.hostname}:{port}/api/{path}"
        headers = {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}
        request = Request(url, json.dumps(body).encode(), headers, method="PUT")
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - our own broker
            print(f"{path}: {answer.status}")  # noqa: T201 - a command


if __name__ == "__main__":
    main(os.environ["BROKER_URL"])
