"""PostgreSQL that stops, forgets to answer, refuses, is full, and keeps what is dead."""

import re
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.harness.disk import SmallDisk, possible
from tests.chaos.harness.logs import mentions, told
from tests.chaos.harness.stranger import LOCK, Stranger, stranger
from tests.chaos.harness.ways_in import OverHTTP
from tests.chaos.harness.workload import Workload, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.eventually import eventually
from tests.integration.gateways import HTTP
from worker.db import side_effects
from worker.db.session import make_engine
from worker.policy import POLICIES

pytestmark = pytest.mark.timeout(240)
# What Celery says of a redirect that has lost its patience.
GONE_BACK = "reject requeue=True"
DECIDED = ("redirect_applied", "redirect_noop", "redirect_superseded")


def decided(world: World) -> int:
    return int(world.direct.rows("SELECT count(*) AS n FROM redirects")[0]["n"])


def more_than(world: World, number: int) -> bool:
    return decided(world) > number


@scenario(16, "immediate stop of PostgreSQL every few seconds")
@on_both
def test_transactions_are_whole_and_everybody_connects_again(world: World, judge: Judge) -> None:
    """No stop makes a checkpoint; between any two redirects are decided; the last outlasts a redirect's patience."""
    world.start_all()
    with sending(world.producer, world.workload) as sent:
        for stop in range(4):
            before, until = decided(world), len(sent) + world.random.randint(60, 160)
            eventually(lambda: more_than(world, before) and len(sent) >= until)  # noqa: B023 - called here
            world.fault("immediate stop", world.database.crash)
            if stop == 3:
                back = mentions(world, "worker", GONE_BACK)
                eventually(lambda: mentions(world, "worker", GONE_BACK) > back)  # noqa: B023 - called here
            world.database.start()
        before = decided(world)
        eventually(lambda: more_than(world, before))
    judge(world)
    assert world.direct.rejected() == []


@scenario(17, "the answer to a COMMIT is lost with the connection")
@on_both
def test_the_repeat_returns_the_recorded_outcome(world: World, judge: Judge) -> None:
    """PostgreSQL has committed and its client cannot know: the next try tells what the ledger says."""
    world.start_all()
    proxy = world.database.proxy
    with sending(world.producer, world.workload):
        # Others than redirects are committed too.
        while len(list(told(world, "worker", "redirect_postponed"))) < 5:
            before = decided(world)
            eventually(lambda: more_than(world, before))  # noqa: B023 - called here
            lost = proxy.unanswered
            world.fault("answer lost", lambda: proxy.swallow_answer(b"COMMIT\0"))
            eventually(lambda: proxy.unanswered > lost)  # noqa: B023 - called here
    judge(world)
    recorded = {row["event_id"]: (f"redirect_{row['outcome']}", row["version"]) for row in world.direct.redirects()}
    outcomes = [(line["event_id"], (line["action"], line["version"])) for line in told(world, "worker", *DECIDED)]
    assert [line for line in outcomes if recorded[line[0]] != line[1]] == []
    assert len({event_id for event_id, _ in outcomes}) > 20


def refused(world: World, words: str) -> list[str]:
    """What the ledger's transactions were refused with."""
    return [line["error"] for line in told(world, "worker", "redirect_postponed") if words in line["error"]]


DEADLOCK, SERIALIZATION, TIMEOUT = "deadlock detected", "could not serialize access", "due to lock timeout"
LOCK_ALL = "SELECT FROM conversation_states ORDER BY conversation_id FOR UPDATE"
OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'redirect-worker' AND pid <> pg_backend_pid()
"""


def cross(world: World, other: Stranger) -> None:
    """Lock all conversations from the last to the first, one by one; whoever meets us waits for us, and we for them."""
    # PostgreSQL ends whoever looks first.
    other.do("SET LOCAL deadlock_timeout = '30s'")
    names = sorted(row["conversation_id"] for row in world.direct.rows("SELECT * FROM conversation_states"))
    other.do(LOCK, names.pop())
    eventually(other.blocks)
    while names:
        other.do(LOCK, names.pop())
    other.rollback()


def change_under_a_snapshot(world: World, other: Stranger) -> None:
    """Change what a transaction waits for whose snapshot is older."""
    other.do(LOCK_ALL)
    other.do("UPDATE conversation_states SET updated_at = updated_at")
    eventually(other.blocks)
    other.commit()


@scenario(18, "deadlocks, serialization failures, lock timeouts")
@on_both
def test_what_locks_refuse_is_tried_again(world: World, judge: Judge) -> None:
    """A stranger causes each under load. It rejects no event, and without the stranger nothing ever deadlocks."""
    world.start_all()
    with sending(world.producer, world.workload, every=0.05, batch=5), stranger(world) as other:
        eventually(lambda: len(world.direct.rows("SELECT FROM conversation_states")) == world.workload.conversations)
        while len(refused(world, DEADLOCK)) < 3:
            world.fault(DEADLOCK, lambda: cross(world, other))
        other.alone("ALTER DATABASE redirect SET default_transaction_isolation = 'repeatable read'")
        other.alone(OTHERS)
        while len(refused(world, SERIALIZATION)) < 3:
            world.fault(SERIALIZATION, lambda: change_under_a_snapshot(world, other))
        other.alone("ALTER DATABASE redirect RESET default_transaction_isolation")
        other.alone(OTHERS)
        world.fault(TIMEOUT, lambda: other.do(LOCK_ALL))
        eventually(lambda: refused(world, TIMEOUT))
        other.rollback()
    judge(world)
    assert world.direct.rejected() == []
    assert [error for error in refused(world, DEADLOCK) if f"process {other.pid}" not in error] == []


@scenario(19, "PostgreSQL's disk full")
@on_both
@pytest.mark.skipif(not possible(), reason="only root may mount a disk of its own")
def test_nothing_is_acknowledged_that_does_not_fit(world: World, judge: Judge) -> None:
    """First no table grows, then the log cannot, and the server ends. With space again everything is decided."""
    with SmallDisk(world.database) as disk:
        world.start_all()
        world.start("intake")
        assert world.watcher is not None
        poster = OverHTTP(world.direct, world.producer.sent, world.watcher.port)
        with sending(world.producer, world.workload), sending(poster, Workload(world.seed, prefix="h")) as sent:
            eventually(lambda: more_than(world, 50))
            world.fault("disk full", disk.fill)
            eventually(lambda: refused(world, "No space left on device"))
            world.fault("no room for the log", lambda: end_by_its_log(world))
            unknown = len(sent.unknown)
            eventually(lambda: len(sent.unknown) > unknown)
            disk.free()
            disk.start()
            before = decided(world)
            eventually(lambda: more_than(world, before + 50))
        judge(world)
        assert world.direct.rejected() == []


def end_by_its_log(world: World) -> None:
    """A new file of the log does not fit: PostgreSQL ends, recovers, and needs another one for that."""

    def ended() -> bool:
        try:
            world.direct.rows("SELECT pg_switch_wal()")
        except Exception:  # noqa: BLE001 - it is going
            return not world.database.processes()
        return False

    eventually(ended, every=0.2)


CHURN = """
    INSERT INTO side_effects (kind, conversation_ids, due_at)
    SELECT kind, ARRAY['gone'], now() - interval '1 hour'
    FROM generate_series(1, %s), unnest(ARRAY['cache', 'websocket', 'record']) AS kind;
    DELETE FROM side_effects WHERE conversation_ids = ARRAY['gone']
"""
RULES = Path(__file__).parents[3] / "ops/prometheus/alerts.yaml"


def sweep(world: World) -> float:
    """Seconds that a sweep's look takes at best: the machine has other things to do."""
    engine = make_engine(world.direct.database_url)
    took = []
    for _ in range(10):
        began = time.monotonic()
        side_effects.due(engine, tuple(POLICIES))
        took.append(time.monotonic() - began)
    engine.dispose()
    return min(took)


def scraped(world: World, name: str) -> float:
    assert world.watcher is not None
    with HTTP.open(f"http://127.0.0.1:{world.watcher.port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return max((one.value for family in families for one in family.samples if one.name == name), default=0.0)


def unvacuumed(world: World) -> int:
    rows = world.direct.rows("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'side_effects'")
    return int(rows[0]["n_dead_tup"])


def limit_of(alert: str) -> tuple[str, float]:
    """The metric that the alert looks at, and what it must exceed."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    expression = next(rule["expr"] for rule in rules if rule["alert"] == alert)
    found = re.search(r"(redirect_worker_\w+).* > (\d+)$", expression)
    assert found, expression
    return found[1], float(found[2])


@scenario(20, "a snapshot that keeps all that is dead")
@on_both
def test_a_sweep_stays_short_and_the_alert_fires(world: World, judge: Judge) -> None:
    """With as many dead rows as an hour leaves: twice as many cost twice the time, and copies go on being written."""
    world.start_all()
    metric, limit = limit_of("RedirectVacuumStuck")
    with stranger(world) as pinned, stranger(world) as other, sending(world.producer, world.workload):
        eventually(lambda: more_than(world, 20))
        before = scraped(world, metric)
        world.fault("snapshot", lambda: pinned.do("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        pinned.do("SELECT count(*) FROM side_effects")
        sweeps = []
        for _ in range(2):
            other.do(CHURN, int(limit / 3))
            other.commit()
            sweeps.append(sweep(world))
        other.alone("VACUUM side_effects")
        assert unvacuumed(world) > limit
        eventually(lambda: scraped(world, metric) > limit)
        seen = decided(world)
        eventually(lambda: more_than(world, seen + 50))
    assert before < limit
    assert sweeps[1] < 4 * sweeps[0] < 2.0, sweeps
    judge(world)
    with stranger(world) as other:
        other.alone("VACUUM side_effects")
    eventually(lambda: scraped(world, metric) < limit)
