"""What `doctor` asks a RabbitMQ broker: are the queues there, what waits in them, and is nothing dropped in silence?"""

import base64
import json
import ssl
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from kombu import Connection, Queue

from worker import json_queue
from worker import queues as queues_of

REDIRECTS = "redirects"
# Deliveries of one redirect. While the database is away it goes back to its queue every eight seconds: that is nine
# days. What kills workers is kept after four tries by the worker itself, long before.
DELIVERY_LIMIT = 100_000
# Fewer would give up redirects in an outage of hours.
TOO_FEW = 10_000
# A classic queue has no delivery limit, and a policy that names one does not apply to it at all.
POLICIES: dict[str, dict[str, object]] = {
    "classic": {"dead-letter-exchange": json_queue.DEAD_LETTERS.exchange.name},
    "quorum": {"dead-letter-exchange": json_queue.DEAD_LETTERS.exchange.name, "delivery-limit": DELIVERY_LIMIT},
}
Answer = tuple[str, bool, str]
"""As a Finding: name, whether all is well, what to know or do."""


def examine(connection: Connection, queues: Sequence[Queue], api: str | None) -> Iterator[Answer]:
    """The findings about a connected broker; `api` is the management API's URL, if not at its usual place."""
    everything = [*(queue.name for queue in queues), json_queue.QUEUE.name, json_queue.DEAD_LETTERS.name]
    waiting = {name: queues_of.waiting(connection, name) for name in everything}
    missing = [name for name, count in waiting.items() if count is None]
    yield (
        "queues",
        not missing,
        f"missing: {', '.join(missing)}; run `redirect-worker migrate`" if missing else "declared",
    )
    incoming = {name: waiting[name] or 0 for name in (REDIRECTS, json_queue.QUEUE.name)}
    yield "waiting messages", True, ", ".join(f"{count} in {name}" for name, count in incoming.items())
    dead = waiting[json_queue.DEAD_LETTERS.name] or 0
    yield "dead letters", dead == 0, f"{dead} in {json_queue.DEAD_LETTERS.name}, each needs a person (docs/rabbitmq.md)"
    if waiting[REDIRECTS] is not None:
        yield _policy(connection, api)


def _policy(connection: Connection, api: str | None) -> Answer:
    name = "redirects policy"
    try:
        queue = _asked(connection, api)
    except (OSError, ValueError) as error:
        unless = "(a classic queue: without the delivery-limit)"
        return name, True, f"not checked, the API says: {error}. Set it {unless}: {command(connection, 'quorum')}"
    lacks = lacking(queue)
    return name, not lacks, f"{', '.join(lacks)}: {command(connection, queue['type'])}" if lacks else "set"


def lacking(queue: dict[str, Any]) -> list[str]:
    """What a queue, as the management API shows it, should have and has not."""
    has = {name.removeprefix("x-"): value for name, value in queue["arguments"].items()}
    has |= queue.get("effective_policy_definition") or {}
    lacks = []
    if not has.get("dead-letter-exchange"):
        lacks.append("what expires or is delivered too often is dropped in silence")
    # No limit at all is RabbitMQ 3's default, 20 is RabbitMQ 4's; a negative number there means none.
    if queue["type"] == "quorum" and 0 <= has.get("delivery-limit", 0) < TOO_FEW:
        lacks.append("an outage of the database may use up its delivery limit")
    return lacks


def command(connection: Connection, queue_type: str) -> str:
    """What to type, once for each virtual host."""
    policy = json.dumps(POLICIES[queue_type])
    at = f"-p {connection.virtual_host or '/'}"
    return f"rabbitmqctl set_policy {at} {REDIRECTS} '^{REDIRECTS}$' '{policy}' --apply-to queues"


def _asked(connection: Connection, api: str | None) -> dict[str, Any]:
    """`redirects`, as the management API shows it. Raises OSError or ValueError when it does not."""
    told = connection.ssl if isinstance(connection.ssl, dict) else {}
    usual = f"https://{connection.hostname}:15671" if connection.ssl else f"http://{connection.hostname}:15672"
    parts = urlsplit(api or usual)
    user, password = (parts.username, parts.password) if parts.username else (connection.userid, connection.password)
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    vhost = quote(connection.virtual_host or "/", safe="")
    url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/api/queues/{vhost}/{REDIRECTS}"
    request = Request(url, headers={"Authorization": f"Basic {secret}"})  # noqa: S310 - the operator's own address
    try:
        trusting = HTTPSHandler(context=ssl.create_default_context(cafile=told.get("ssl_ca_certs")))
        with build_opener(ProxyHandler({}), trusting).open(request, timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
    except HTTPError as error:
        with error:
            raise OSError(f"{error.code} {error.reason}") from None
    return found
