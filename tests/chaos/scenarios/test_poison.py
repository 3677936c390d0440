"""Messages that no healthy producer sends, between those that do, and times that nobody can mean."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import pytest
from kombu import Connection

from tests.chaos.harness.ways import WAYS
from tests.chaos.harness.workload import sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.eventually import eventually
from tests.poison import Case, deepened
from tests.poison_amqp import publish
from tests.poison_cases import cases
from tests.poison_fuzz import TOKEN, mutants
from worker.db.rejected import fields

pytestmark = pytest.mark.timeout(300)
NEVER = "9999-12-31T23:59:59Z"
# Options of a producer's that mean: now.
NOW: list[dict[str, Any]] = [{"countdown": -3600}, {"eta": "0001-01-01T00:00:00Z"}, {"task_id": "1"}, {"task_id": "1"}]


@contextmanager
def unharmed(world: World) -> Iterator[None]:
    """The same processes are there afterwards, and no connection to the broker was lost; a healthy event is done."""
    eventually(lambda: all(len(children(process.popen.pid)) == 4 for process in world.running("worker")))
    before = {pid: children(pid) for _, process in world.processes for pid in [process.popen.pid]}
    yield
    healthy = world.workload.event(conversation_id="healthy", destination="billing")
    assert world.producer.send([healthy])
    eventually(lambda: world.direct.cached("healthy"), within=120)  # behind all of it
    assert {pid: children(pid) for pid in before} == before
    assert not any(process.says("Connection to broker lost") for process in world.running("worker"))


def children(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


@scenario(29, "the poison set, and messages hurt at random")
@on_both
def test_the_worker_goes_on_and_the_poison_is_kept(world: World, judge: Judge) -> None:
    """Pushed between healthy events; a healthy event behind it all is done. Each hurt message leaves one row."""
    world.service = world.direct  # messages of 34 MB take seconds through a proxy in Python
    world.start_all()
    known = list(cases())
    hurt = [Case(token, item) for token, item in mutants(world.random, (f"fuzz-{number:04}" for number in range(100)))]
    with unharmed(world), sending(world.producer, world.workload, every=0.2):
        sent = [case for case in known + hurt if _push(world, case)]
        world.faults["poison"] += len(sent)
    tokens = {case.name for case in sent if case in hurt}
    found = [row for row in (*world.direct.redirects(), *world.direct.rejected()) if TOKEN.search(str(row))]
    assert Counter(token for row in found for token in set(TOKEN.findall(str(row)))) == Counter(tokens)
    kept = [row for row in world.direct.rejected() if row not in found]
    assert len(kept) == sum(len(case.kept) for case in sent if case in known and case.says)
    judge(world, extra=_named(found, sent))


def _push(world: World, case: Case) -> bool:
    """Whether the broker has taken it: RabbitMQ refuses some before any worker could."""
    if world.on_redis:
        return bool(world.direct.broker.lpush(case.queue, case.item))
    with Connection(world.direct.broker_url, transport_options={"confirm_publish": True}) as connection:
        try:
            return publish(connection, case)
        except connection.connection_errors:
            return False


def _named(found: list[dict[str, Any]], sent: list[Case]) -> set[str]:
    """The ids under which poison may be found."""
    names = {case.name for case in sent} | {str(event["event_id"]) for case in sent for event in case.events}  # type: ignore[index]
    names |= {fields(case.item.decode(errors="replace")).get("event_id", "") for case in sent}
    for row in found:
        read = fields(row["body"]) if "body" in row else row
        names.add(read.get("event_id", ""))
    return names


SQL = "'; DROP TABLE redirects; -- %s %(x)s :x $1 \\"
LUA = "]] redis.call('FLUSHALL') --[[ *?[{}] \r\n"


def everywhere(text: str) -> bytes:
    return json.dumps({"conversation_id": text, "owner_id": text, "source": text, "reason": text})[1:-1].encode()


# The rest of an event, and its outcome.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "NUL": (rb'"reason": "a\u0000b"', "malformed"),
    "a lone surrogate": (rb'"reason": "\ud800"', "malformed"),
    "10 MB": (b'"reason": "' + b"x" * 10_000_000 + b'"', "too_large"),
    "10,000 levels": (deepened(b'"metadata": {"x": "DEEP 10000"}'), "malformed"),
    "NaN": (b'"metadata": {"x": NaN}', "malformed"),
    "1e999": (b'"metadata": {"x": 1e999}', "malformed"),
    "integers over 2**63": (b'"metadata": {"x": 9223372036854775808, "y": -1%s}' % (b"0" * 30), "applied"),
    "SQL": (everywhere(SQL), "applied"),
    "Lua": (everywhere(LUA), "applied"),
}
# What PostgreSQL refuses, in its producer's own transaction; and what is a number to it, whose digits it writes out.
AT_THE_DOOR = {("outbox", name) for name in ("NUL", "a lone surrogate", "NaN")}
WRITTEN_OUT = {("outbox", "1e999"): "applied"}


@scenario(30, "NUL, surrogates, 10 MB, depth, huge numbers, SQL and Lua, through every way in")
@on_both
def test_each_has_a_clear_outcome(world: World, judge: Judge) -> None:
    """Each value through each way in is applied, kept with its reason, or refused to the producer's face."""
    world.service = world.direct
    world.start_all()
    world.start("intake")
    wanted: dict[str, str] = {}
    with unharmed(world), sending(world.producer, world.workload, every=0.2):
        for name, (rest, outcome) in HOSTILE.items():
            for way in WAYS:
                refused = world.fault(name, partial(_send, world, way, name, rest))
                at_the_door = (way, name) in AT_THE_DOOR
                assert (refused is not None) == (at_the_door or (way == "HTTP" and outcome != "applied")), (
                    way,
                    name,
                    refused,
                )
                if not at_the_door:
                    wanted[f"{name} by {way}"] = WRITTEN_OUT.get((way, name), outcome)
        eventually(lambda: _came_to(world, wanted), within=60, every=0.5)
    judge(world, extra=wanted)


def _send(world: World, way: str, name: str, rest: bytes) -> str | None:
    identity = f"{name} by {way}"
    known = {"event_id": identity, "destination": "billing", "occurred_at": world.workload.event()["occurred_at"]}
    conversation = b"" if b"conversation_id" in rest else b', "conversation_id": "%s"' % identity.encode()
    return WAYS[way](world, identity, json.dumps(known).encode()[:-1] + conversation + b", " + rest + b"}")


def _came_to(world: World, wanted: dict[str, str]) -> bool:
    """Each event once, by its id, which stands near the beginning of what is kept, or near its end."""
    found: dict[str, list[str]] = {identity: [] for identity in wanted}
    for row in world.direct.rows(
        "SELECT event_id, outcome FROM redirects WHERE event_id = ANY(:ids)", ids=list(wanted)
    ):
        found[row["event_id"]].append(row["outcome"].replace("noop", "applied").replace("superseded", "applied"))
    for row in world.direct.rows("SELECT code, left(body, 2000) || right(body, 2000) AS body FROM rejected_events"):
        for identity in (identity for identity in wanted if identity in row["body"]):
            found[identity].append(row["code"])
    assert found == {identity: [outcome] for identity, outcome in wanted.items()}
    return True


@scenario(31, "eta in year 9999, in the past; a task id used twice; occurred_at in year 9999")
@on_both
def test_nothing_is_held_and_later_decisions_win(world: World, judge: Judge) -> None:
    """What cannot be meant is refused, what can is done now, and none of it stands in the way of what comes later."""
    world.start_all()
    event = world.workload.event
    never = [event(conversation_id=f"never-{number}", destination="billing") for number in range(3)]
    now = [event(conversation_id=f"now-{number}", destination="billing") for number in range(4)]
    far = [event(conversation_id=f"far-{number}", destination="billing", occurred_at=NEVER) for number in range(3)]
    with unharmed(world), sending(world.producer, world.workload, every=0.2):
        for one in never:
            world.fault("eta", partial(world.direct.send, one, eta=NEVER))
        for one, options in zip(now, NOW, strict=True):
            world.fault("now", partial(world.direct.send, one, **options))
        for one in far:
            world.fault("far", partial(world.direct.send, one))
        eventually(lambda: len(world.direct.rejected()) == len(never) + len(far))
        later = [event(conversation_id=one["conversation_id"], destination="sales") for one in (*never, *far)]
        for one in later:
            assert world.producer.send([one])
    judge(world, extra=[one["event_id"] for one in (*never, *now, *far)])
    assert Counter(row["code"] for row in world.direct.rejected()) == {"malformed": len(never), "clock_skew": len(far)}
    held = {
        row["conversation_id"]: row["destination"] for row in world.direct.rows("SELECT * FROM conversation_states")
    }
    assert {held[one["conversation_id"]] for one in later} == {"sales"}
    assert {held[one["conversation_id"]] for one in now} == {"billing"}
