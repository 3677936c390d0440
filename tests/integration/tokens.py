"""Tokens for a gateway under test, good ones and bad ones, and what becomes of those who bring them."""

import base64
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.integration.gateways import SOON, Answer, Gateway
from tests.service import Service
from worker.embedded.processes import free_port
from worker.gateway.tokens import issue

SECRET = "a-secret-of-more-than-thirty-two-characters"
SCRAPER = "a-token-of-prometheus-alone"
PRODUCER = "a-producer-of-sixteen-or-more"
# Every token that was made in this process, and what it was signed with: none may be in any log.
MADE: set[str] = {PRODUCER, SECRET}


def token(*owner_ids: str, scope: str = "", lifetime: float = 600, secret: str = SECRET, **claims: Any) -> str:
    """Of these owners; a claim that is given as None is left out."""
    made = issue(secret, lifetime, owner_ids, scope, **claims)
    MADE.add(made)
    return made


def by_hand(header: dict[str, Any], key: bytes | None, **claims: Any) -> str:
    """A token of everybody's conversations that says of itself what it likes; without a key it is not signed."""
    told = {"exp": int(time.time()) + 600, "owner_ids": ["*"]} | claims
    signed = b".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT"} | header, told))
    signature = b"" if key is None else hmac.digest(key, signed, "sha256")
    made = (signed + b"." + _base64(signature)).decode()
    MADE.add(made)
    return made


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def bearer(shown: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {shown}"}


def offering(shown: str) -> dict[str, Any]:
    """Options for a socket whose token comes as a subprotocol."""
    return {"subprotocols": [Subprotocol("redirect.v1"), Subprotocol(f"bearer.{shown}")]}


def get(web: Gateway, path: str, shown: str) -> Answer:
    return web.get(path, **bearer(shown))


def close_code(live: ClientConnection, within: float = SOON) -> int:
    """With what the gateway closes it, whatever it says before that."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            live.recv(timeout=within)
    assert closed.value.rcvd, "the connection ended without a close frame"
    return closed.value.rcvd.code


def closed_with(web: Gateway, shown: str, query: str = "") -> int:
    with web.socket(query, **offering(shown)) as live:
        return close_code(live)


def is_refused(web: Gateway, shown: str) -> bool:
    """Whether neither door opens: 401 over HTTP, 4401 on a socket. As assertions, so that it is said what happened."""
    answer = get(web, "/conversations", shown)
    assert (answer.status, answer.headers.get("www-authenticate")) == (401, "Bearer"), answer
    assert closed_with(web, shown) == 4401
    return True


def is_taken(web: Gateway, shown: str) -> bool:
    """Whether both doors open."""
    answer = get(web, "/conversations", shown)
    assert answer.status == 200, answer
    with web.socket(**offering(shown)) as live:
        assert live.subprotocol == "redirect.v1"
        assert json.loads(live.recv(timeout=SOON))["type"] == "snapshot"
    return True


@contextmanager
def asking(service: Service, module: str = "worker.gateway", **environment: str) -> Iterator[Gateway]:
    """A gateway that asks for tokens. Whatever was brought to it, at its end its log has no traceback and no token."""
    port = free_port(None)
    keys = {} if "REDIRECT_JWT_JWKS" in environment else {"REDIRECT_JWT_SECRET": SECRET}
    environment = (
        {"PORT": str(port), "REDIRECT_HTTP_TOKENS": PRODUCER, "REDIRECT_METRICS_TOKENS": SCRAPER} | keys | environment
    )
    with service.running(module, ready="gateway ready", **environment) as process:
        yield Gateway(port, process)
    assert tokens_in(process.log.read_text(errors="replace")) == []
    assert not process.says("Traceback"), process.log.read_text(errors="replace")


def tokens_in(log: str) -> list[str]:
    """The tokens, and the signatures of tokens, that are in `log`."""
    parts = {part for made in MADE for part in (made, made.rpartition(".")[2] if made.count(".") == 2 else made)}
    return sorted(part for part in parts if part and part in log)
