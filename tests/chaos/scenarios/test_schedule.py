"""What is due, by whose clock; sweeps that are missing, too many, killed, and far behind."""

import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection

from tests.chaos.harness.clock import Clock
from tests.chaos.harness.pace import all_recorded
from tests.chaos.harness.stranger import stranger
from tests.chaos.harness.workload import Workload, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.chaos.scenarios.test_postgresql import LOCK_ALL, TIMEOUT, decided, more_than, refused
from tests.eventually import eventually
from worker import queues
from worker.db.side_effects import LOST
from worker.effects import ROUND

pytestmark = pytest.mark.timeout(240)
HOUR = 3600.0
# What a killed worker had in hand is back after this; and a task has longer than PostgreSQL lets it wait for a lock.
BACK = {
    "REDIRECT_VISIBILITY_TIMEOUT": "46",
    "REDIRECT_TASK_TIME_LIMIT": "12",
    "REDIRECT_TASK_SOFT_TIME_LIMIT": "10",
}
KINDS = ("cache", "websocket", "record")


def sweeps(world: World) -> float:
    """As the workers tell the database, every ten seconds."""
    rows = world.direct.rows("SELECT value FROM counters WHERE name = 'sweeps'")
    return float(rows[0]["value"]) if rows else 0.0


@scenario(32, "workers' clocks an hour apart, jumping back by two")
@on_both
def test_no_clock_but_the_servers_counts(world: World, judge: Judge, tmp_path: Path) -> None:
    """Nobody takes what another has in hand for abandoned; what a killed one had comes back; every sweep is run."""
    clock = Clock(tmp_path / "clock", HOUR)
    world.start("beat")
    world.watch()
    ahead = world.start("worker", through=clock.through, **BACK)
    right = world.start("worker", **BACK)
    with sending(world.producer, world.workload), stranger(world) as other:
        eventually(lambda: more_than(world, 50))
        # Longer than a worker lets pass between two looks for what is abandoned.
        other.do(LOCK_ALL)
        eventually(lambda: len(refused(world, TIMEOUT)) > 1)
        world.fault("killed with an hour's lead", ahead.kill)
        other.rollback()
        world.start("worker", through=clock.through, **BACK)
        right.popen.terminate()
        seen, swept = decided(world), sweeps(world)
        eventually(lambda: more_than(world, seen + 50) and sweeps(world) > swept)
        world.fault("jump", lambda: clock.jump(-HOUR))
        seen, swept = decided(world), sweeps(world)
        eventually(lambda: more_than(world, seen + 50) and sweeps(world) > swept)
    found = judge(world, within=90)
    # Of what was killed, and of what its connection's end brought back: not the hundreds in hand, every five seconds.
    assert found.counters.duplicated <= 20


def file(world: World, rows: int, **columns: str) -> None:
    """So many side effects of each kind, round the conversations that there are, due ten minutes ago; nobody rings."""
    values = {"due_at": "now() - interval '10 minutes'"} | columns
    with stranger(world) as other:
        other.do(
            f"""
            INSERT INTO side_effects (kind, conversation_ids, {", ".join(values)})
            SELECT kind, ARRAY[(SELECT array_agg(conversation_id) FROM conversation_states)[1 + n %% %s]],
                {", ".join(values.values())}
            FROM generate_series(1, %s) AS n, unnest(%s) AS kind
            """,
            world.workload.conversations,
            rows,
            list(KINDS),
        )
        other.commit()


NOTE_CLAIMS = """
    CREATE TABLE claims (id bigint);
    CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO claims VALUES (NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER note_claim AFTER UPDATE ON side_effects FOR EACH ROW
        WHEN (NEW.failures > OLD.failures) EXECUTE FUNCTION note_claim()
"""


def waiting(world: World) -> int:
    return int(world.direct.rows("SELECT count(*) AS n FROM side_effects")[0]["n"])


def everybody_is_there(world: World) -> bool:
    states = world.direct.rows("SELECT count(*) AS n FROM conversation_states")
    return bool(states[0]["n"] == world.workload.conversations)


@scenario(33, "beat dead, then two, and sweeps on top of each other")
@on_both
def test_sweeps_neither_pile_up_nor_share(world: World, judge: Judge) -> None:
    """What is due waits for a beat; of any number of sweeps, each due row is written by one."""
    world.start_all(REDIRECT_RECONCILE_INTERVAL="3600")
    world.start("worker")
    with sending(world.producer, world.workload):
        eventually(lambda: everybody_is_there(world))
    all_recorded(world)
    eventually(lambda: waiting(world) == 0)
    (beat,) = world.running("beat")
    world.fault("beat dead", beat.kill)
    eventually(lambda: not maintenance(world))
    with stranger(world) as other:
        other.do(NOTE_CLAIMS)
        other.commit()
    file(world, 500)
    filed = {row["id"] for row in world.direct.effects()}
    assert len(filed) == 500 * len(KINDS)
    with Celery("outside", broker=world.direct.broker_url) as outside:
        for _ in range(300):
            outside.send_task("retry_side_effects", queue="maintenance")
    world.faults["sweep at once"] += 300
    for _ in range(2):
        world.fault("beat", lambda: world.start("beat", REDIRECT_SWEEP_INTERVAL="0.2"))
    eventually(lambda: waiting(world) == 0)
    with sending(world.producer, world.workload) as sent:
        seen = len(sent)
        eventually(lambda: len(sent) > seen + 50)
    judge(world)
    eventually(lambda: maintenance(world) < 20)
    claimed = [row["id"] for row in world.direct.rows("SELECT id FROM claims") if row["id"] in filed]
    assert sorted(claimed) == sorted(filed)


def maintenance(world: World) -> int:
    """Messages that wait there."""
    if world.on_redis:
        return int(world.direct.broker.llen("maintenance"))
    with Connection(world.direct.broker_url) as connection:
        return queues.waiting(connection, "maintenance") or 0


@scenario(34, "a sweep killed midway, 100,000 rows behind, the dead replayed twice")
@on_both
@pytest.mark.timeout(400)
def test_what_is_far_behind_is_caught_up_in_rounds(world: World, judge: Judge) -> None:
    """At any moment no more than a round of each kind is in hand, and redirects are decided meanwhile."""
    world.workload = Workload(world.seed, conversations=40)
    world.start_all()
    world.producer.send_all([world.workload.event(conversation_id=f"c{number}") for number in range(40)])
    with sending(world.producer, world.workload, every=0.3) as sent:
        eventually(lambda: everybody_is_there(world))
        (worker,) = world.running("worker")
        worker.kill()
        file(world, 33_000)
        file(world, 334, state="'dead'", failures="9", last_error="'no'")
        doomed = world.start("worker", REDIRECT_FAILPOINT="mid_sweep")
        eventually(lambda: not doomed.running)
        world.faults["mid_sweep"] += 1
        world.start("worker")
        replays = [world.fault("replay", lambda: replay(world)) for _ in range(2)]
        assert [each.wait(90) for each in replays] == [0, 0]
        seen, decided_before = len(sent), decided(world)
        eventually(lambda: far_behind(world) == 0, within=200, every=0.5)
        assert len(sent) > seen
        assert more_than(world, decided_before)
    judge(world, within=120)


def replay(world: World) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from worker.cli import main; main()", "effects", "retry", "--dead", "--json"]
    return subprocess.Popen(command, env=world.direct.environment, stdout=subprocess.DEVNULL)


def far_behind(world: World) -> int:
    """How many rows are; in hand never more than one round of each kind, and one that the killed worker has left."""
    sql = "SELECT kind, count(*) AS n FROM side_effects WHERE last_error = :lost AND failures = 1 GROUP BY kind"
    in_hand = {row["kind"]: row["n"] for row in world.direct.rows(sql, lost=LOST)}
    assert all(number <= 2 * ROUND for number in in_hand.values()), in_hand
    return waiting(world)
