"""Events that come many times, in any order, changed, and all for one conversation."""

from functools import partial

import pytest

from tests.chaos.harness.stranger import LOCK, stranger
from tests.chaos.harness.ways import another, send, together
from tests.chaos.harness.workload import Event, Producer, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.eventually import eventually

pytestmark = pytest.mark.timeout(240)
# Each task its own transaction in whichever process is free: else one would take all of them together.
# And a name of its own: RabbitMQ lets two workers of one name have no control queue each.
ALONE = ("--prefetch-multiplier", "1", "--hostname", "alone@%h")


@scenario(25, "the same event 100 times at once")
@on_both
def test_it_is_applied_once(world: World, judge: Judge) -> None:
    """By twelve producers over three ways in; each event has one row, and moved its conversation once."""
    world.start_all()
    world.start("worker", *ALONE)
    world.start("intake")
    events = [world.workload.event(conversation_id=f"hot-{number}") for number in range(3)]
    ways = ("task", "JSON queue", "HTTP")
    with sending(world.producer, world.workload, every=0.2):
        together([partial(_each_time, world, way, events, 9) for way in ways for _ in range(4)])
        world.faults["repeat"] += 12 * 9 * len(events)
    found = judge(world)
    assert found.counters.duplicated > 100
    rows = world.direct.rows(
        "SELECT conversation_id, outcome, version FROM redirects WHERE conversation_id LIKE 'hot%'"
    )
    assert sorted((row["conversation_id"], row["outcome"], row["version"]) for row in rows) == [
        (f"hot-{number}", "applied", 1) for number in range(3)
    ]


def _each_time(world: World, way: str, events: list[Event], times: int) -> None:
    for _ in range(times):
        send(world, way, *events)


@scenario(26, "shuffled and interleaved events, repeated")
@on_both
def test_there_is_one_final_state(world: World, judge: Judge) -> None:
    """Four producers each send the same events, in an order and in batches of their own: the last decision holds.

    Transactions that lock the same conversations meet all the time, and never in a circle.
    """
    world.start_all()
    world.start("worker", *ALONE)
    events = world.workload.events(250)
    producers = [another(world) for _ in range(4)]
    orders = [world.random.sample(events, len(events)) for _ in producers]
    batches = [[world.random.randint(1, 20) for _ in events] for _ in producers]
    together([partial(_in_batches, *one) for one in zip(producers, orders, batches, strict=True)])
    world.faults["shuffle"] += len(producers)
    found = judge(world)
    assert found.counters.duplicated >= 3 * len(events)
    assert deadlocks(world) == 0


FREE = "SELECT conversation_id FROM conversation_states ORDER BY conversation_id FOR UPDATE SKIP LOCKED"


@scenario(26, "shuffled events, one of whose conversations is held")
@on_both
def test_those_before_it_are_locked_and_none_after(world: World, judge: Judge) -> None:
    """In whatever order they are listed, a transaction locks conversations by name: no two ever wait for each other."""
    world.start_all()
    names = [f"c{number:02}" for number in range(20)]
    world.producer.send([world.workload.event(conversation_id=name) for name in names])
    eventually(lambda: len(world.direct.redirects()) == len(names))
    with stranger(world) as other:
        world.fault("lock", lambda: other.do(LOCK, names[10]))
        world.producer.send(
            [world.workload.event(conversation_id=name) for name in world.random.sample(names, len(names))]
        )
        eventually(other.blocks)
        free = [row["conversation_id"] for row in world.direct.rows(FREE)]
        other.rollback()
    judge(world)
    assert free == names[11:]


def _in_batches(producer: Producer, events: list[Event], sizes: list[int]) -> None:
    start = 0
    for size in sizes:
        if batch := events[start : start + size]:
            assert producer.send(batch)
        start += size
    producer.close()


@pytest.mark.quick
@scenario(27, "a known event_id with another body")
@on_both
def test_it_is_a_conflict_and_changes_nothing(world: World, judge: Judge) -> None:
    """Over each way in, each with one thing changed: kept as `conflict`, while the first decision stays as it was."""
    world.start_all()
    world.start("intake")
    changes: list[Event] = [
        {"destination": "sales"},
        {"conversation_id": "another"},
        {"owner_id": "another"},
        {"occurred_at": "2026-01-01T00:00:00Z"},
        {"reason": "changed my mind"},
        {"metadata": {"order": 1}},
    ]
    events = [world.workload.event(destination="billing", reason="asked for a refund") for _ in range(40)]
    world.producer.send_all(events)
    eventually(lambda: len(world.direct.redirects()) == len(events))
    before = world.direct.redirects()
    with sending(world.producer, world.workload, every=0.2):
        for number, event in enumerate(events):
            changed = event | changes[number % len(changes)]
            way = ("task", "JSON queue", "HTTP", "outbox")[number % 4]
            world.fault("conflict", partial(send, world, way, changed))
        eventually(lambda: len(world.direct.rejected()) == len(events))
    judge(world)
    assert {row["code"] for row in world.direct.rejected()} == {"conflict"}
    after = {row["event_id"]: row for row in world.direct.redirects()}
    assert [after[row["event_id"]] for row in before] == before


@scenario(28, "10,000 events for one conversation")
@on_both
def test_its_version_grows_by_ten_thousand(world: World, judge: Judge) -> None:
    """Back and forth by four producers and eight processes: nothing deadlocks, and each event counts.

    Without a time each is decided when it is received; each message begins with one destination and ends with the
    other, so whatever the order, no two that follow each other are the same.
    """
    world.start_all()
    world.start("worker", *ALONE)
    with sending(world.producer, world.workload, every=0.2):
        together([partial(_back_and_forth, another(world), f"hot-{number}") for number in range(4)])
        world.faults["event"] += 10_000
        eventually(lambda: _version(world) == 10_000, within=120, every=0.5)
    judge(world)
    assert world.direct.rows("SELECT outcome, count(*) FROM redirects WHERE conversation_id = 'hot' GROUP BY 1") == [
        {"outcome": "applied", "count": 10_000}
    ]
    assert deadlocks(world) == 0


def deadlocks(world: World) -> int:
    """As PostgreSQL has counted them: a transaction that met one is tried again, and nothing else tells of it."""
    return int(world.direct.rows("SELECT sum(deadlocks) AS n FROM pg_stat_database")[0]["n"])


def _back_and_forth(producer: Producer, name: str) -> None:
    """2,500 events in 50 messages."""
    for start in range(0, 2500, 50):
        destinations = enumerate(("billing", "sales") * 25, start)
        assert producer.send(
            [{"event_id": f"{name}-{at}", "conversation_id": "hot", "destination": where} for at, where in destinations]
        )
    producer.close()


def _version(world: World) -> int:
    state = world.direct.state("hot")
    assert state is not None
    return int(state["version"])
