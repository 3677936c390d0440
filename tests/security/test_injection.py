"""Text that would be SQL, Lua, HTML, a shell's or a log line's, by every way in: it stays text, to the last byte."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.typed import Typed
from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.gateways import Gateway, snapshot
from tests.integration.intakes import put
from tests.integration.posting import post
from tests.security.test_flower_door import FLOWER, asked
from tests.service import Process, Service
from worker import stack
from worker.embedded.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TEXTS = [
    "'; DROP TABLE redirects; --",
    "1' OR '1'='1' /*",
    "$1 :name %(x)s %s {0} ${HOME} \\'",
    "'||(SELECT pg_sleep(60))||'",
    '"]]) redis.call("FLUSHALL") --[[',
    "x' \\x27 E'\\047 $$;",
    "KEYS[1] {tag} *?[a-z] \\* }{",
    "\r\nFLUSHALL\r\n*1\r\n$8\r\nFLUSHALL",
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{7*7}} <%= 7*7 %> #{7*7}",
    "$(touch went-off) `touch went-off` | touch went-off; &",
    "--help",
    '\n{"level": "error", "event": "forged"}\n',
    "\u2028\u2029\u0085 \x1b[2J \x7f \x08",
    "%0d%0aSet-Cookie: a=b",
    "../../etc/passwd%00 ..%2f",
    "__proto__",
]


@dataclass
class Everything:
    """The service at work, with a page of the gateway's frames, and who printed what."""

    service: Service
    web: Gateway
    flower: int
    processes: list[Process]
    frames: dict[str, Any]


def event(way: str, number: int) -> dict[str, Any]:
    """An event whose every text is `TEXTS[number]`; the names begin with what tells them apart."""
    text = TEXTS[number]
    return {
        "event_id": f"{way}{number}{text}",
        "conversation_id": f"{way}{number}{text}"[:64],
        "destination": "billing",
        "owner_id": text,
        "source": text,
        "actor": {"type": "user", "id": text},
        "reason": text,
        "metadata": {text: text},
    }


@pytest.fixture(scope="module")
def everything(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    """All processes, in a folder of their own, and every text sent by every way in."""
    service = make_service(servers, tmp_path_factory.mktemp("injection"))
    ports = {name: str(free_port(None)) for name in ("PORT", "REDIRECT_FLOWER_PORT")}
    service.extra.update(ports | {"REDIRECT_LOG_FORMAT": "json"})
    with ExitStack() as started:
        processes = [
            started.enter_context(service.worker()),
            started.enter_context(service.running("worker.intake", ready="reading the JSON queue")),
            started.enter_context(service.running("worker.gateway", ready="gateway ready")),
            started.enter_context(service.running(*FLOWER)),
        ]
        flower = int(ports["REDIRECT_FLOWER_PORT"])
        eventually(lambda: stack.listens(flower), within=60)
        web = Gateway(int(ports["PORT"]), processes[2])
        with web.socket() as live:
            snapshot(live)
            sent = _send(service, web)
            frames: dict[str, Any] = {}
            while len(frames) < sent:
                frame = json.loads(live.recv(timeout=60))
                frames[frame["conversation_id"]] = frame
        eventually(service.agrees, within=60)
        yield Everything(service, web, flower, processes, frames)


WAYS = ("task", "words", "queue", "http", "outbox", "function")


def _send(service: Service, web: Gateway) -> int:
    numbers = range(len(TEXTS))
    for number in numbers:
        service.send(event("task", number))
        service.producer.send_task("redirect_conversation", kwargs=event("words", number), queue="redirects")
    put(service, *(event("queue", number) for number in numbers))
    assert post(web, [event("http", number) for number in numbers]).status == 202
    with service.engine.begin() as connection:
        for number in numbers:
            outbox, function = (json.dumps(event(way, number)) for way in ("outbox", "function"))
            connection.exec_driver_sql("INSERT INTO event_outbox (body) VALUES (%s)", (outbox,))
            connection.exec_driver_sql("SELECT enqueue_redirect(%s)", (function,))
    return len(numbers) * len(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_same_in_every_copy(everything: Everything, way: str) -> None:
    """In the ledger, the state, the record, the cache key, the frame, and the answers of the gateway."""
    service = everything.service
    told = {row["event_id"]: row for row in service.redirects()}
    for number in range(len(TEXTS)):
        sent = event(way, number)
        name = sent["conversation_id"]
        row = told[sent["event_id"]]
        assert {field: row[field] for field in sent} == sent
        for copy in (service.state(name), service.record(name)):
            assert copy and copy["owner_id"] == sent["owner_id"]
        assert (service.cached(name) or {})["destination"] == "billing"
        assert {field: everything.frames[name][field] for field in ("owner_id", "event_id")} == {
            field: sent[field] for field in ("owner_id", "event_id")
        }
        answer = everything.web.get(f"/conversations/{quote(name, safe='')}").body
        assert isinstance(answer, dict), (name, answer)
        assert answer["state"]["conversation_id"] == name and answer["redirects"][0]["reason"] == sent["reason"]


def test_it_is_found_by_its_owner(everything: Everything) -> None:
    """As a parameter of an address, and as the owner of a socket: of these and of nobody else."""
    for text in TEXTS:
        found = everything.web.get(f"/conversations?owner_id={quote(text, safe='')}&limit=200").body["conversations"]
        assert {one["owner_id"] for one in found} == {text} and len(found) == len(WAYS)
        with everything.web.socket(f"?owner_id={quote(text, safe='')}") as live:
            assert len(snapshot(live)) == len(WAYS)


def test_nothing_was_done_that_it_says(everything: Everything) -> None:
    """All tables and keys are there, no file was made, and nothing is refused."""
    tables = everything.service.rows(
        "SELECT count(*) AS n FROM information_schema.tables WHERE table_schema = 'public'"
    )
    assert tables[0]["n"] >= 10 and everything.service.rejected() == []
    assert len(list(everything.service.cache.scan_iter("ai_control_*", count=1000))) == len(TEXTS) * len(WAYS)
    assert not Path("went-off").exists() and not (stack.ROOT / "went-off").exists()


def test_a_line_of_a_log_is_one_object(everything: Everything) -> None:
    """Whatever is in it: no line is parted, none is forged, and no terminal is told what to do."""
    for process in everything.processes[:3]:
        log = process.log.read_bytes().decode()
        lines = log[log.index('{"') :].split("\n")
        events = [json.loads(line)["event"] for line in lines if line]
        assert len(events) > len(TEXTS) and "forged" not in events
        assert "\x1b" not in log and "\r" not in log


def test_flower_shows_it_as_text(everything: Everything) -> None:
    """In its pages, and as JSON in its API."""
    tasks = json.loads(asked(everything.flower, "/api/tasks?limit=500")[2])
    named = [name for name, task in tasks.items() if "<script>" in str(task["args"])]
    assert named
    for path in ("/tasks", *(f"/task/{name}" for name in named[:3])):
        page = asked(everything.flower, path)[2]
        assert "<script>alert" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert" in asked(everything.flower, f"/task/{named[0]}")[2]


def test_commands_take_it_as_text(everything: Everything) -> None:
    """`send` and `show`, as an argument that no shell has seen."""
    with Typed(everything.service) as typed:
        for number, text in enumerate(TEXTS):
            name = f"typed{number}{text}"[:64]
            done = typed("send", "--reason", text, "--", name, "sales")
            assert done.returncode == 0, done.stderr
            eventually(lambda name=name: everything.service.cached(name), within=30)  # type: ignore[misc]
            shown = json.loads(typed("show", "--json", "--", name).stdout)
            assert (shown["state"]["conversation_id"], shown["redirects"][0]["reason"]) == (name, text)


def test_the_pages_make_no_html_of_text() -> None:
    """Neither of them has a way to."""
    for page in ("page.html", "docs.html"):
        source = (stack.ROOT / "worker/gateway" / page).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", source
        )
        assert not re.search(r"\son\w+\s*=\s*[\"']", source)
