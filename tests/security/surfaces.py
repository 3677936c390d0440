"""Where the service can be seen, and all that can be seen there."""

import base64
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil
from websockets.exceptions import WebSocketException

from tests.acceptance.sentry_sink import Sink
from tests.acceptance.typed import Typed
from tests.integration.gateways import Gateway
from tests.integration.posting import post
from tests.integration.tokens import bearer
from tests.security.planted import Planted, plain
from tests.security.test_flower_door import asked
from tests.service import Process, Service
from worker.gateway.tokens import issue

ME = {"Authorization": "Basic " + base64.b64encode(b"me:" + plain("flower").encode()).decode()}
PAGES = ("/", "/workers", "/tasks", "/broker", "/metrics", "/nowhere", "/api/tasks", "/api/workers?refresh=1")
COMMANDS = (
    ("doctor",),
    ("status",),
    ("show", "dead-1"),
    ("show", "telling-1"),
    ("effects", "list"),
    ("rejected", "list"),
    ("verify",),
)


def templated(address: str) -> str:
    """`address` with `{user}` in place of who logs in."""
    parts = urlsplit(address)
    return (
        parts._replace(netloc=f"{{user}}@{parts.hostname}:{parts.port}")
        .geturl()
        .replace("%7B", "{")
        .replace("%7D", "}")
    )


@dataclass
class Running:
    """The service at work, and everything that came out of it: where -> text."""

    service: Service
    planted: Planted
    heard: Sink
    web: Gateway
    flower: int
    processes: list[Process]
    seen: dict[str, str]


def look(running: Running, under: Service, typed: Typed) -> None:
    seen = running.seen
    seen["gateway"] = _gateway(running)
    seen["flower"] = _flower(running)
    for words in COMMANDS:
        in_json, in_text = typed(*words, "--json", **under.extra), typed(*words, **under.extra)
        seen[" ".join(words)] = in_json.stdout + in_json.stderr + in_text.stdout + in_text.stderr
    seen["processes"] = _command_lines(running)
    tables = ("side_effects", "conversation_states", "conversations", "counters")
    seen["tables"] = json.dumps([running.service.rows(f"SELECT * FROM {table}") for table in tables], default=str)
    told = "SELECT event_id, outcome, code FROM redirects", "SELECT source, code, error FROM rejected_events"
    seen["errors"] = json.dumps([running.service.rows(sql) for sql in told], default=str)
    seen["cache"] = str([(key, running.service.cache.get(key)) for key in running.service.cache.keys("ai_*")])
    seen["sentry"] = "\n".join(running.heard.envelopes)
    seen["logs"] = "\n".join(path.read_text(errors="replace") for path in under.folder.glob("*.log"))


def _gateway(running: Running) -> str:
    """Every kind of answer, with good and bad tokens in headers, addresses and bodies."""
    web, planted = running.web, running.planted
    key = planted.secrets["jwt_secret"][0]
    good, bad = issue(key, 600, ["*"], "send operate"), issue(key[::-1], 600, ["*"])
    planted.more.extend([good, bad])
    shown = [good, bad, *planted.secrets["http_tokens"], *planted.secrets["metrics_tokens"]]
    said: list[object] = []
    for token in shown:
        for path in (
            "/conversations",
            "/conversations/dead-1",
            "/conversations/x/redirects",
            "/activity",
            "/metrics",
            f"/{token}",
        ):
            said += [web.get(path, **bearer(token))]
        said.append(web.get(f"/conversations?token={token}&limit={token}"))
        said += [post(web, body, **bearer(token)) for body in ([{"event_id": "e"}], "no JSON", {"a": 1})]
        said.append(post(web, {"a": token}, "text/plain"))
        said.append(_socket(web, token))
    said += [web.get(path) for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/nowhere")]
    # An answer that quotes what was asked for is for whoever asked.
    return str([one for one in said if not any(token in str(one) for token in shown[:2])])


def _socket(web: Gateway, token: str) -> str:
    try:
        with web.socket() as live:
            live.send(json.dumps({"type": "authenticate", "token": token}))
            return str(live.recv(timeout=10))
    except (WebSocketException, TimeoutError) as closed:
        return repr(closed)


def _flower(running: Running) -> str:
    """Its pages and its API, with every link that leads to a worker or a task; without the password; and its errors."""
    said, left = [], list(PAGES)
    for path in left:
        answer = asked(running.flower, path, **ME)[2]
        said += [answer, asked(running.flower, path)[2]]
        if path in PAGES:
            left += sorted({*re.findall(r'href="(/(?:worker|task)/[^"?#]+)"', answer)} - {*left})
            if path == "/api/tasks":
                left += [f"/task/{name}" for name in json.loads(answer)]
    assert any(path.startswith("/task/") for path in left)
    assert any(path.startswith("/worker/") for path in left) or "celery@" in "".join(said)
    return "\n".join(said)


def _command_lines(running: Running) -> str:
    lines = []
    for process in running.processes:
        whole = psutil.Process(process.popen.pid)
        lines += [" ".join(one.cmdline()) for one in [whole, *whole.children(recursive=True)]]
    return "\n".join(lines)
