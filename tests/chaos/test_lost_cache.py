"""Redis loses all it holds under 100,000 conversations: every key comes back by itself, and live redirects go on."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from tests.eventually import eventually
from tests.integration.ledgers import event, execute
from tests.service import Service
from worker.redirects import State
from worker.redis_client import key
from worker.tasks.cache import value

MANY = 100_000
STATES = f"""
    INSERT INTO conversation_states
        (conversation_id, owner_id, status, ai_enabled, destination, version, occurred_at, event_id)
    SELECT 'c' || n, n::text, CASE WHEN n % 3 = 0 THEN 'active' ELSE 'support_active' END, n % 3 = 0,
        CASE WHEN n % 3 = 0 THEN 'ai' ELSE 'billing' END, 1 + n % 7, now(), 'e' || n
    FROM generate_series(1, {MANY}) n
"""
RECORDS = """
    INSERT INTO conversations (id, owner_id, status, ai_enabled, destination, version)
    SELECT conversation_id, owner_id, status, ai_enabled, destination, version FROM conversation_states
"""


def wrong(service: Service) -> int:
    """How many keys do not show the truth."""
    columns = ", ".join(State.__slots__)
    states = [State(**row) for row in service.rows(f"SELECT {columns} FROM conversation_states")]
    held: list[object] = []
    for start in range(0, len(states), 5000):
        held += service.cache.mget([key(state.conversation_id) for state in states[start : start + 5000]])
    return sum(there != value(state) for state, there in zip(states, held, strict=True))


@contextmanager
def live(service: Service) -> Iterator[list[float]]:
    """Redirects, one after the other, until the block ends; the seconds that each took to its key."""
    took: list[float] = []
    end = threading.Event()

    def redirect() -> None:
        # Of its own: a thread shares no connection with the test.
        with Redis.from_url(service.redis_url) as cache:
            for number in itertools.count():
                name = f"live-{number}"
                started = time.monotonic()
                service.send(event(f"of-{name}", "sales", name))
                while not cache.exists(key(name)):
                    time.sleep(0.01)
                    if end.is_set():
                        return
                took.append(time.monotonic() - started)

    thread = threading.Thread(target=redirect)
    thread.start()
    try:
        yield took
    finally:
        end.set()
        thread.join(30)


@pytest.mark.timeout(400)
def test_after_flushall_every_key_is_right_again_and_nobody_waits_for_it(service: Service) -> None:
    """Nobody does anything. The slowest live redirect takes a small part of the time that the whole takes."""
    execute(service, STATES, RECORDS)
    with service.worker(), service.beat(REDIRECT_RECONCILE_INTERVAL="1"):
        eventually(lambda: service.cache.dbsize() > MANY, within=180, every=0.5)
        eventually(lambda: not service.rows("SELECT whole FROM reconciliation")[0]["whole"], within=60)
        assert wrong(service) == 0

        started = time.monotonic()
        service.cache.flushall()
        with live(service) as took:
            eventually(lambda: service.cache.dbsize() > MANY, within=180, every=0.1)
            whole = time.monotonic() - started
        eventually(lambda: wrong(service) == 0, within=60, every=1)
        assert len(took) > 10
        assert max(took) < whole / 2, (sorted(took)[-5:], whole)
        counted = service.rows("SELECT value FROM counters WHERE name = 'drift_found' AND labels = '{cache}'")
        assert counted[0]["value"] >= 2 * MANY
