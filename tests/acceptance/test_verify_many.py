"""`verify` of a million conversations takes the memory of one slice."""

import json
import os
import subprocess
import threading
import time

import psutil
import pytest

from tests.acceptance import ups
from tests.integration.ledgers import execute
from tests.service import Service

# Conversations of the AI that were decided days ago: their keys may be gone.
STATES = """
    INSERT INTO conversation_states (conversation_id, status, ai_enabled, destination, version, occurred_at, event_id)
    SELECT lpad(n::text, 8, '0'), 'active', true, 'ai', 1, now() - interval '3 days', 'e'
    FROM generate_series({first}, {last}) n
"""
RECORDS = """
    INSERT INTO conversations (id, status, ai_enabled, destination, version)
    SELECT conversation_id, status, ai_enabled, destination, version FROM conversation_states ON CONFLICT DO NOTHING
"""


def verified(service: Service) -> tuple[dict[str, object], int]:
    """What it reports, and the most memory that it took, in bytes."""
    command = [str(ups.BIN / "redirect-worker"), "verify", "--json"]
    process = subprocess.Popen(command, env=os.environ | service.environment, stdout=subprocess.PIPE, text=True)
    seen: list[int] = []

    def watch() -> None:
        while process.poll() is None:
            try:
                seen.append(psutil.Process(process.pid).memory_info().rss)
            except psutil.Error:
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate(timeout=280)
    watcher.join()
    return json.loads(output), max(seen)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_million_are_compared_in_the_memory_of_ten_thousand(service: Service) -> None:
    """Every one is looked at; and it ends with exit code and counts, not with the machine's memory."""
    execute(service, STATES.format(first=1, last=10_000), RECORDS)
    few, little = verified(service)
    assert (few["compared"], few["well"]) == (10_000, True)

    with service.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql(STATES.format(first=10_001, last=1_000_000))
        connection.exec_driver_sql(RECORDS)
        connection.exec_driver_sql("DELETE FROM conversations WHERE id = '00777777'")
    many, much = verified(service)

    assert many["compared"] == 1_000_000
    assert many["named"] == ["record of 00777777"]
    assert much < 1.3 * little
