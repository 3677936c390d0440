"""A producer that posts events over HTTP, and what it is told."""

import http.client
import json
from collections.abc import Iterable
from typing import Any

from tests.integration.gateways import Answer, Gateway
from tests.service import Service

JSON = "application/json"
# More than the gateway waits for a body.
LONGEST = 20.0


def event(event_id: str, conversation_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"event_id": event_id, "conversation_id": conversation_id, "destination": "billing"} | more


def post(web: Gateway, body: object, content_type: str | None = JSON, path: str = "/events", **headers: str) -> Answer:
    """What is answered to `body`: bytes, an iterable of bytes (sent in chunks), text, or a value that becomes JSON."""
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    raw: Any = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        headers["Content-Type"] = content_type
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=LONGEST)
    try:
        connection.request("POST", path, raw, headers, encode_chunked=not isinstance(raw, bytes))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.load(answer))
    finally:
        connection.close()


def chunks(size: int) -> Iterable[bytes]:
    """A JSON string of so many bytes, in pieces, with no length announced."""
    yield b'"'
    for _ in range(size // 65536):
        yield b"x" * 65536
    yield b'"'


def outbox(service: Service) -> list[Any]:
    return [row["body"] for row in service.rows("SELECT body FROM event_outbox ORDER BY id")]
