"""What must hold after every scenario (G1-G8), and the four counters that say how far it does."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import psutil
from kombu import Connection
from redis import Redis

from tests.chaos.harness.servers import Rabbit, Server
from tests.chaos.harness.workload import Sent, last_decisions
from tests.chaos.harness.world import World
from tests.eventually import eventually
from worker import json_queue
from worker.db.rejected import fields
from worker.guard.taking import TAKEN
from worker.queues import UNACKED, waiting

QUEUES = ("redirects", "effects.cache", "effects.websocket", "effects.record", json_queue.QUEUE.name)
# Deaths of a process in a minute that nobody has caused.
LOOP = 3


@dataclass(frozen=True)
class Counters:
    """As in RabbitMQ's Jepsen tests: acknowledged and nowhere; raised at the producer and there all the same; there and
    never sent; decided once more (harmless: the second decision is the first).
    """

    lost: int
    recovered: int
    unexpected: int
    duplicated: int


@dataclass(frozen=True)
class Verdict:
    """One scenario's row of the table. `agreed_in` is seconds from the last fault until all was at rest and agreed."""

    events: int
    faults: int
    counters: Counters
    agreed_in: float
    seed: int

    def as_dict(self) -> dict[str, object]:
        fields = asdict(self)
        return {**fields.pop("counters"), **fields}


def verdict(world: World, *, within: float = 60, extra: Iterable[str] = (), dead: bool = False) -> Verdict:
    """Wait until everything is at rest, at most `within` seconds, then demand G1-G8. Faults have ended.

    `extra` are ids of events that were sent past the producer. `dead`: side effects may be dead, with a reason.
    """
    sent = world.producer.sent
    began = time.monotonic()
    eventually(lambda: _at_rest(world), within)
    agreed_in = time.monotonic() - began
    if not _all_right(world, dead):  # else it has been so since then: one look at a million events takes long
        eventually(lambda: _looked(world, dead), within)
        eventually(lambda: _at_rest(world), within)
        agreed_in = time.monotonic() - began
    problems = list(_problems(world, sent))
    counters = count(world, sent, set(extra))
    assert problems == [], f"seed {world.seed}: " + "; ".join(problems[:10])
    told = f"seed {world.seed}: {counters}"
    assert counters.lost == 0, told
    assert counters.unexpected == 0, f"{told} {sorted(_there(world) - set(sent.events) - set(extra))[:5]}"
    return Verdict(len(sent), world.faults.total(), counters, agreed_in, world.seed)


def count(world: World, sent: Sent, extra: set[str]) -> Counters:
    there = _there(world)
    decided = sum(_decisions(world))
    return Counters(
        lost=len(set(sent.acknowledged) - there),
        recovered=len(set(sent.unknown) & there),
        unexpected=len(there - set(sent.events) - extra),
        duplicated=max(0, decided - len(there)),
    )


def _there(world: World) -> set[str]:
    return _recorded(world) | set(_rejected(world))


def _recorded(world: World) -> set[str]:
    return {row["event_id"] for row in world.direct.rows("SELECT event_id FROM redirects")}


def _rejected(world: World) -> list[str]:
    """Not those of a conflict: it is about an event that was decided before."""
    bodies = world.direct.rows("SELECT body FROM rejected_events WHERE code <> 'conflict' AND length(body) < 200000")
    return [event_id for row in bodies if (event_id := fields(row["body"]).get("event_id"))]


def _missing(world: World, sent: Sent) -> set[str]:
    return set(sent.acknowledged) - _there(world)


def _at_rest(world: World) -> bool:
    """G6 and G8: no side effect waits, nothing is on its way."""
    (left,) = world.direct.rows("""
        SELECT (SELECT count(*) FROM side_effects WHERE state <> 'dead') AS effects,
            (SELECT count(*) FROM event_outbox) AS outbox
    """)
    assert not any(left.values()), left
    return _drained(world)


def _all_right(world: World, dead: bool) -> bool:
    try:
        return _looked(world, dead)
    except AssertionError:
        return False


def _looked(world: World, dead: bool) -> bool:
    """G1, G3, G5 and G6."""
    missing = _missing(world, world.producer.sent)
    assert not missing, f"missing: {sorted(missing)[:5]}"
    return _agree(world, dead)


def _agree(world: World, dead: bool) -> bool:
    """G3, G5 and G6; where the AI's key is gone, it asks the database."""
    wrong = world.direct.disagreements()
    excused = (
        {row["kind"] for row in world.direct.effects() if row["state"] == "dead" and row["last_error"]}
        if dead
        else set()
    )
    wrong = [line for line in wrong if line.split(" ", 1)[0] not in excused]
    assert wrong == [], wrong[:5]
    return True


def _drained(world: World) -> bool:
    """G8: queues empty, nothing in anybody's hand, no transaction left open."""
    left = _left_on_redis(world.direct.broker) if world.on_redis else _left_on_rabbitmq(world)
    assert not any(left.values()), left
    idle = world.direct.rows("""
        SELECT pid FROM pg_stat_activity
        WHERE state LIKE 'idle in transaction%' AND state_change < now() - interval '5 s'
    """)
    assert idle == [], idle
    return True


def _left_on_redis(broker: Redis) -> Mapping[str, int | None]:
    return {name: broker.llen(name) for name in (*QUEUES, TAKEN)} | {UNACKED: broker.hlen(UNACKED)}


def _left_on_rabbitmq(world: World) -> Mapping[str, int | None]:
    with Connection(world.direct.broker_url) as connection:
        left = {name: waiting(connection, name) for name in QUEUES}
    return left if any(left.values()) else _in_hand(world.broker)


def _in_hand(broker: Server) -> Mapping[str, int | None]:
    """What RabbitMQ has delivered and nobody has acknowledged. Asked last: `rabbitmqctl` takes a second."""
    assert isinstance(broker, Rabbit)
    listed = broker.node.ctl("list_queues", "-p", broker.vhost, "--silent", "name", "messages_unacknowledged")
    return {name: int(number) for name, number in (line.split("\t") for line in listed.splitlines()) if name in QUEUES}


def _problems(world: World, sent: Sent) -> Iterator[str]:
    yield from _told_twice(world)
    yield from _not_the_last_decision(world, sent)
    yield from _gaps(world)
    yield from _watched(world)
    yield from _crash_loops(world)


def _told_twice(world: World) -> Iterator[str]:
    """G1."""
    both = _recorded(world) & set(_rejected(world))
    if both:
        yield f"decided and rejected: {sorted(both)[:5]}"


def _not_the_last_decision(world: World, sent: Sent) -> Iterator[str]:
    """G2: the state is the last decision of all that are in the ledger."""
    recorded = _recorded(world)
    # One without a time was decided when it was received, which nobody knows here.
    timed = [event for identity, event in sent.events.items() if identity in recorded and "occurred_at" in event]
    decides = last_decisions(timed)
    states = {row["conversation_id"]: row for row in world.direct.rows("SELECT * FROM conversation_states")}
    for conversation_id, event in decides.items():
        state = states.get(conversation_id)
        if state is None or (state["event_id"], state["destination"]) != (event["event_id"], event["destination"]):
            yield f"{conversation_id} is {state}, and {event} decides"


def _gaps(world: World) -> Iterator[str]:
    """G2: versions without a gap, and the state at the last of them."""
    rows = world.direct.rows("""
        SELECT s.conversation_id, s.version, array_agg(r.version ORDER BY r.version) AS applied
        FROM conversation_states s LEFT JOIN redirects r
            ON r.conversation_id = s.conversation_id AND r.outcome = 'applied' GROUP BY 1, 2
    """)
    for row in rows:
        if row["applied"] != list(range(1, row["version"] + 1)):
            yield f"{row['conversation_id']} at {row['version']} has applied {row['applied']}"


def _watched(world: World) -> Iterator[str]:
    """G4."""
    if (watcher := world.watcher) is None:
        return
    yield from watcher.backwards
    states = world.direct.rows("SELECT conversation_id, version FROM conversation_states")
    wanted = {row["conversation_id"]: row["version"] for row in states}
    try:
        eventually(lambda: watcher.versions == wanted, within=20)
    except AssertionError:
        behind = {name: (watcher.versions.get(name), version) for name, version in wanted.items()}
        yield f"the browser shows {[item for item in behind.items() if item[1][0] != item[1][1]][:5]}"


def _crash_loops(world: World) -> Iterator[str]:
    """G7: no child ends by itself again and again, and nobody of a process that has ended is left."""
    for kind, process in world.processes:
        deaths = process.log.read_text(errors="replace").count("exited with 'signal")
        if deaths > LOOP + world.faults.total():
            yield f"{kind} lost {deaths} processes"
        if not process.running and (left := group(process.popen.pid)):
            yield f"{kind} has left {left}"


def group(leader: int) -> list[int]:
    """The processes that are left of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


def _decisions(world: World) -> Iterator[int]:
    """How many events each committed run had, as the workers' logs say."""
    for _, process in world.processes:
        for line in process.log.read_text(errors="replace").splitlines():
            if '"redirects_committed"' in line:
                told = json.loads(line)
                yield sum(told.get(name, 0) for name in ("applied", "noop", "superseded", "rejected"))
