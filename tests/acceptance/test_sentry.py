"""Sentry hears of what a person must look at, from every kind of process, and never what a customer wrote."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.acceptance.sentry_sink import Sink, sink
from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.ledgers import event, execute, file_effect, ledger_of
from tests.service import Service
from worker.redis_client import key

WITHIN = 30.0
PASSWORD = "hunter2-hunter2"
# A bug beside a connection that cannot be made, with every secret in its variables.
DIES = """
import logging, os
from config.sentry import start
from config.settings import settings
from sentry_sdk import flush
from worker.db.session import engine
start("worker")
everything = dict(os.environ)
try:
    engine().connect()
except Exception:
    logging.getLogger("ours").exception("the database cannot be reached")
flush()
"""
REASON, WORDS = "my account was hacked", "an iban: DE89370400440532013000"


@pytest.fixture(scope="module")
def heard() -> Iterator[Sink]:
    """A Sentry that takes what it is sent."""
    with sink() as taken:
        yield taken


@pytest.fixture(scope="module")
def service(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(servers, tmp_path_factory.mktemp("sentry"))


def unwritable(service: Service, conversation_id: str) -> dict[str, Any]:
    """An event whose cache effect is dead at the first attempt: the conversation's key holds another type."""
    service.cache.rpush(key(conversation_id), "somebody else's list")
    return {
        "event_id": f"event-of-{conversation_id}",
        "conversation_id": conversation_id,
        "destination": "billing",
        "reason": REASON,
        "metadata": {"note": WORDS},
    }


def is_dead(service: Service, conversation_id: str) -> bool:
    return any(
        effect["state"] == "dead" and conversation_id in effect["conversation_ids"] for effect in service.effects()
    )


def told_of(heard: Sink, number: int) -> bool:
    return len(heard.of("worker")) >= number


def test_a_dead_side_effect_is_told_once_with_its_ids(service: Service, heard: Sink) -> None:
    """From a worker's child: the error, tagged with process, conversation and event; not a word of the customer."""
    with service.worker(SENTRY_DSN=heard.dsn) as worker:
        for number, each in enumerate(("dead-1", "dead-2"), start=1):
            service.send(unwritable(service, each))
            eventually(partial(told_of, heard, number), within=WITHIN)
            assert is_dead(service, each)
        worker.popen.terminate()
        worker.popen.wait(timeout=WITHIN)

    # The worker has ended, so what it had to say has been said.
    assert [told["tags"]["conversation_id"] for told in heard.of("worker")] == ["dead-1", "dead-2"]
    assert [told["tags"]["event_id"] for told in heard.of("worker")] == ["event-of-dead-1", "event-of-dead-2"]
    (error,) = heard.of("worker")[0]["exception"]["values"]
    assert error["type"] == "SideEffectDead"
    assert "cache" in error["value"] and "WRONGTYPE" in error["value"]
    everything = "".join(heard.envelopes)
    assert REASON not in everything and WORDS not in everything


# What a process of ours may log, or die of; each holds words of a customer where such words have been seen.
SAYS = f"""
import logging, structlog
from config.logging import configure
from config.settings import settings
from config.sentry import start
from sentry_sdk import flush
configure("json")
start("worker")
ids = {{"conversation_id": "c-9", "event_id": "e-9"}}
structlog.get_logger("ours").error("it cannot be kept", action="lost", **ids, body="{REASON}")
logging.getLogger("theirs").error("refused: %s", "new row violates a check\\nDETAIL: Failing row contains ({REASON})")
def bug(reason):
    raise ValueError("a bug\\n[parameters: {REASON}]")
try:
    bug(reason="{WORDS}")
except ValueError:
    logging.getLogger("theirs").exception("it broke")
flush()
"""


def test_sentry_gets_sentences_and_ids_but_no_text(service: Service, heard: Sink) -> None:
    """A log line of ours is its sentence and ids; of any other message it is the first line; of a frame, the code."""
    heard.envelopes.clear()
    environment = service.environment | {"SENTRY_DSN": heard.dsn, "PYTHONWARNINGS": "error"}
    subprocess.run([sys.executable, "-c", SAYS], env=environment, check=True, timeout=WITHIN)

    ours, theirs, bug = heard.events()
    assert ours["logentry"]["message"] == "it cannot be kept"
    tags = {name: ours["tags"][name] for name in ("process", "action", "conversation_id", "event_id")}
    assert tags == {"process": "worker", "action": "lost", "conversation_id": "c-9", "event_id": "e-9"}
    assert theirs["logentry"]["message"] == "refused: new row violates a check"
    assert [value["value"] for value in bug["exception"]["values"]] == ["a bug"]
    everything = "".join(heard.envelopes)
    assert REASON not in everything and WORDS not in everything


@pytest.mark.slow
def test_the_schedules_of_beat_report_as_crons(service: Service, heard: Sink) -> None:
    """Each time that one has run, once a minute at most, with the interval that Sentry may expect; release and all."""
    heard.envelopes.clear()
    with service.worker("--concurrency=1", SENTRY_DSN=heard.dsn, SENTRY_ENVIRONMENT="night"), service.beat():
        service.producer.send_task("reconcile_conversations", queue="maintenance")
        service.producer.send_task("prune_history", queue="maintenance")
        eventually(lambda: len(heard.check_ins()) >= 3, within=WITHIN)
    told = {one["monitor_slug"]: one for one in heard.check_ins()}
    assert {name: one["monitor_config"]["schedule"]["value"] for name, one in told.items()} == {
        "retry_side_effects": 1,
        "reconcile_conversations": 1,
        "prune_history": 60,
    }
    assert {(one["status"], one["environment"]) for one in told.values()} == {("ok", "night")}
    assert all(one["release"] for one in told.values())
    assert len(heard.check_ins()) == 3


@pytest.mark.slow
def test_a_copy_that_waits_for_the_sweep_is_no_error(service: Service, heard: Sink) -> None:
    """FAILURE in Flower, and nothing for a person: Sentry does not hear of it."""
    heard.envelopes.clear()
    ledger_of(service).accept([event("of-c-parked", "billing", "c-parked")])
    execute(service, "DELETE FROM side_effects")
    file_effect(service, "c-parked", failures=6)
    with service.worker("--concurrency=1", REDIS_URL="redis://127.0.0.1:1/0", SENTRY_DSN=heard.dsn) as worker:
        service.producer.send_task("update_cache", queue="effects.cache")
        eventually(lambda: [row["failures"] for row in service.effects()] == [7], within=WITHIN)
        eventually(lambda: worker.says("effect_retry"), within=WITHIN)
        worker.popen.terminate()
        worker.popen.wait(timeout=WITHIN)
    assert heard.of("worker") == []


def test_beat_tells_that_it_cannot_reach_the_broker(service: Service, heard: Sink) -> None:
    """A beat that cannot send is a schedule that stands still. The password of its URL stays here."""
    away = replace(service, broker_url=f"redis://:{PASSWORD}@127.0.0.1:1/0")
    with away.beat(SENTRY_DSN=heard.dsn):
        eventually(lambda: heard.of("beat"), within=WITHIN)
    assert "refused" in json.dumps(heard.of("beat"))
    assert PASSWORD not in "".join(heard.envelopes)


def test_no_password_and_no_token_leaves_with_a_bug(service: Service, heard: Sink) -> None:
    """From a process that knows them all, and dies of what quotes none of them."""
    heard.envelopes.clear()
    secrets = {
        "DATABASE_URL": f"postgresql://redirect:{PASSWORD}@127.0.0.1:1/redirect",
        "REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
        "REDIRECT_HTTP_TOKENS": f"{PASSWORD}-of-a-producer",
        "REDIRECT_JWT_SECRET": f"{PASSWORD}-that-signs-the-tokens-of-readers",
    }
    environment = service.environment | secrets | {"SENTRY_DSN": heard.dsn}
    subprocess.run([sys.executable, "-c", DIES], env=environment, timeout=WITHIN, check=True)
    assert "OperationalError" in json.dumps(heard.events())
    assert PASSWORD not in "".join(heard.envelopes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "port", "command"),
    [
        ("web", "PORT", ("worker.gateway",)),
        ("flower", "REDIRECT_FLOWER_PORT", ("celery", "-A", "worker.app", "flower", "--conf=config/flower.py")),
    ],
)
def test_web_and_flower_tell_why_they_cannot_start(
    service: Service, heard: Sink, process: str, port: str, command: tuple[str, ...]
) -> None:
    """Given that its port is taken: it ends, and Sentry knows why."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {"SENTRY_DSN": heard.dsn, port: str(taken.getsockname()[1])}
        with service.running(*command, **environment) as ending:
            eventually(lambda: not ending.running, within=WITHIN)
    eventually(lambda: heard.of(process), within=WITHIN)
    assert "address already in use" in json.dumps(heard.of(process)).lower()


@pytest.fixture(params=["hangs", "is gone"])
def unwell(request: pytest.FixtureRequest) -> Iterator[Sink]:
    """A Sentry that takes requests and never answers, or one that nobody can connect to."""
    with sink() as unwell:
        if request.param == "hangs":
            unwell.hanging.set()
            yield unwell
            return
    yield unwell


def test_invariant_5_a_sentry_that_is_unwell_delays_no_redirect(service: Service, unwell: Sink) -> None:
    """While it hangs or is gone, all is applied, written or recorded as dead, and the worker ends when it is told."""
    names = [f"{name}-{unwell.port}-{number}" for name in ("dead", "fine") for number in range(3)]
    with service.worker("--concurrency=1", SENTRY_DSN=unwell.dsn) as worker:
        for name in names:
            service.send(unwritable(service, name) if name.startswith("dead") else event(f"of-{name}", "ai", name))
        eventually(lambda: all(is_dead(service, name) for name in names[:3]), within=WITHIN)
        eventually(lambda: all(service.cached(name) for name in names[3:]), within=WITHIN)
        eventually(lambda: all(service.record(name) for name in names), within=WITHIN)
        if unwell.hanging.is_set():
            eventually(lambda: unwell.requests, within=WITHIN)
            assert unwell.envelopes == []
        worker.popen.terminate()
        worker.popen.wait(timeout=WITHIN)
