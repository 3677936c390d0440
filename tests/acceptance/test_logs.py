"""A redirect in the logs: who looks for one event_id reads what happened, and nothing that a customer wrote."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import fresh_database, make_service
from tests.eventually import eventually
from tests.integration.ledgers import event
from tests.service import Process, Service
from worker import stack
from worker.redis_client import key

WITHIN = 30.0
REASON, WORDS = "my account was hacked", "an iban: DE89370400440532013000"
TEXT = {"reason": REASON, "metadata": {"note": WORDS}}


@pytest.fixture(scope="module")
def service(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(servers, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def worker(service: Service) -> Iterator[Process]:
    """A worker whose standard error is no terminal, so it tells JSON."""
    with service.worker() as worker:
        yield worker


def lines(worker: Process) -> list[dict[str, Any]]:
    """The JSON lines; Celery's banner is none of them."""
    return [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]


def told(worker: Process, **keys: object) -> list[dict[str, Any]]:
    return [line for line in lines(worker) if keys.items() <= line.items()]


def test_one_redirect_is_one_story(service: Service, worker: Process) -> None:
    """Received, applied, each copy written, and one final line: all with the same event and conversation."""
    ids = {"event_id": "story-1", "conversation_id": "story"}
    service.send(ids | {"destination": "billing"} | TEXT)
    # Two kinds that are settled in the same moment may both find that nothing is behind, and both say so.
    # Whoever writes the last copy says so last.
    story: list[dict[str, Any]] = []

    def whole() -> bool:
        story[:] = told(worker, **ids)
        return len(told(worker, action="effect_written", **ids)) == 3 and story[-1]["action"] == "redirect_complete"

    eventually(whole, within=WITHIN)
    assert [line["action"] for line in story[:2]] == ["redirect_received", "redirect_applied"]
    assert sorted(line["kind"] for line in story if line["action"] == "effect_written") == [
        "cache",
        "record",
        "websocket",
    ]
    assert {line["action"] for line in story[2:]} == {"effect_written", "redirect_complete"}
    assert {line["level"] for line in story} == {"info"}
    assert story[1]["version"] == story[-1]["version"] == 1
    assert all(line["event"] and line["timestamp"].endswith("Z") and line["task_id"] for line in story)


def test_a_retry_is_a_warning_and_healing_it_completes_the_story(service: Service, worker: Process) -> None:
    """While the cache is out of memory each attempt is a warning with the reason and the next time; then it is info."""
    service.cache.config_set("maxmemory", 1)
    try:
        service.send(event("retry-1", "billing", "retried") | TEXT)
        eventually(lambda: told(worker, action="effect_retry", conversation_ids=["retried"]), within=WITHIN)
    finally:
        service.cache.config_set("maxmemory", 0)

    first = told(worker, action="effect_retry", conversation_ids=["retried"])[0]
    assert (first["level"], first["kind"]) == ("warning", "cache")
    assert "OOM" in first["error"] or "maxmemory" in first["error"]
    assert 0 < first["due_in"] < 1
    eventually(lambda: told(worker, action="redirect_complete", event_id="retry-1"), within=WITHIN)
    assert {line["level"] for line in lines(worker) if line.get("event_id") == "retry-1"} == {"info"}


def test_a_dead_effect_is_an_error(service: Service, worker: Process) -> None:
    """Nobody will retry: an error with the reason, and no final line."""
    service.cache.rpush(key("dying"), "another type")
    service.send(event("dead-1", "billing", "dying") | TEXT)
    (dead,) = eventually(lambda: told(worker, action="effect_dead", conversation_ids=["dying"]), within=WITHIN)

    assert (dead["level"], dead["kind"], dead["due_in"]) == ("error", "cache", None)
    assert "WRONGTYPE" in dead["error"]
    eventually(lambda: len(told(worker, action="effect_written", event_id="dead-1")) == 2, within=WITHIN)
    assert told(worker, action="redirect_complete", event_id="dead-1") == []


def test_a_rejected_event_is_a_warning_with_its_code(service: Service, worker: Process) -> None:
    """One line for each, and none of it repeats the event."""
    service.send(
        event("rejected-1", "cats", "rejected") | TEXT,
        event("rejected-2", "billing", "rejected", occurred_at="yesterday") | TEXT,
        f"this is no JSON: {REASON}",
        event("rejected-4", "billing", "rejected", metadata={"deep": {"er": WORDS}}),
    )
    eventually(lambda: len(told(worker, action="redirect_rejected")) == 4, within=WITHIN)
    assert [(line["level"], line["code"]) for line in told(worker, action="redirect_rejected")] == [
        ("warning", "unknown_destination"),
        ("warning", "malformed"),
        ("warning", "malformed"),
        ("warning", "malformed"),
    ]


def test_no_line_holds_what_a_customer_wrote(service: Service, worker: Process) -> None:
    """Neither reason nor metadata: of events applied, retried, dead, rejected, and of messages that were parked."""
    service.broker.lpush("redirects", f"a raw item: {REASON}")
    service.producer.send_task("no_such_task", args=[{"reason": REASON, "metadata": WORDS}], queue="redirects")
    service.producer.send_task("update_cache", args=[REASON, WORDS, REASON], queue="effects.cache")
    eventually(lambda: len(told(worker, action="message_parked")) >= 2, within=WITHIN)
    service.send(event("last", "billing", "last") | TEXT)
    eventually(lambda: told(worker, action="redirect_complete", event_id="last"), within=WITHIN)

    text = worker.log.read_text()
    assert REASON not in text and WORDS not in text


@pytest.mark.slow
def test_text_on_request(servers: dict[str, str], service: Service) -> None:
    """Sentences and keys, for people."""
    # The other worker of this module must not take part.
    apart = service.broker_url.removesuffix("/0") + "/1"
    service = replace(service, database_url=fresh_database(servers["postgres"]), broker_url=apart)
    service.cache.rpush(key("dying-2"), "another type")
    with service.worker("--concurrency=1", REDIRECT_LOG_FORMAT="text") as worker:
        service.send(event("text-1", "billing", "in-text") | TEXT, event("text-2", "ai", "dying-2") | TEXT)
        eventually(lambda: worker.says("redirect complete: all copies agree"), within=WITHIN)
        eventually(lambda: worker.says("raised unexpected: SideEffectDead"), within=WITHIN)
        eventually(lambda: worker.says("SideEffectDead: cache of 1 conversations is dead"), within=WITHIN)
    text = worker.log.read_text()

    assert lines(worker) == []
    (applied,) = [line for line in text.splitlines() if "redirect applied" in line and "event_id=text-1" in line]
    assert "[info" in applied and "conversation_id=in-text" in applied
    assert "[error" in text
    assert REASON not in text and WORDS not in text


BUG = f"""
import structlog
from config.logging import configure
configure("text")
def fails(event):
    raise ValueError("a bug")
try:
    fails(dict(reason=" ".join({REASON.split()!r})))
except ValueError:
    structlog.get_logger().exception("it broke")
"""


def test_a_traceback_in_text_shows_no_variables(tmp_path: Path) -> None:
    """Its lines of code and the error; what was in the variables is what customers wrote."""
    (tmp_path / "bug.py").write_text(BUG)
    done = subprocess.run(
        [sys.executable, tmp_path / "bug.py"],
        env={"PYTHONPATH": str(stack.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=WITHIN,
    )
    assert "it broke" in done.stderr and "ValueError: a bug" in done.stderr
    assert REASON not in done.stderr
