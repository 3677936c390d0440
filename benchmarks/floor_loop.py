"""One process of the floor: `python -m benchmarks.floor_loop FOLDER` reads files of events, a batch at a time.

No queue, no validation, no retries, no logs: the SQL and the Redis commands that nobody can leave out.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg2
from redis import Redis

from benchmarks.events import Event
from benchmarks.work import asked, cache_arguments, frame_arguments

BATCH = 200

# `version` comes in as the number of events of the conversation in this batch.
_MOVE = """
    INSERT INTO conversation_states AS s
        (conversation_id, owner_id, status, ai_enabled, destination, version, occurred_at, event_id)
    SELECT conversation_id, owner_id, status, ai_enabled, destination, version, occurred_at, event_id
    FROM json_populate_recordset(null::conversation_states, %s) ORDER BY conversation_id
    ON CONFLICT (conversation_id) DO UPDATE
    SET status = excluded.status, ai_enabled = excluded.ai_enabled, destination = excluded.destination,
        version = s.version + excluded.version, occurred_at = excluded.occurred_at, event_id = excluded.event_id,
        updated_at = now()
    RETURNING conversation_id, version
"""
_RECORD = """
    WITH recorded AS (
        INSERT INTO redirects SELECT * FROM json_populate_recordset(null::redirects, %s)
    )
    INSERT INTO side_effects (kind, conversation_ids) SELECT kind, %s FROM unnest(%s) AS kind RETURNING id
"""
_SAVE = """
    INSERT INTO conversations (id, owner_id, status, ai_enabled, destination, version)
    SELECT conversation_id, owner_id, status, ai_enabled, destination, version
    FROM json_populate_recordset(null::conversation_states, %s) ORDER BY conversation_id
    ON CONFLICT (id) DO UPDATE
    SET status = excluded.status, ai_enabled = excluded.ai_enabled, destination = excluded.destination,
        version = excluded.version, updated_at = now()
    WHERE conversations.version <= excluded.version
"""
_KINDS = ["cache", "websocket", "record"]


class Loop:
    def __init__(self) -> None:
        self.connection = psycopg2.connect(os.environ["DATABASE_URL"])
        self.redis = Redis.from_url(os.environ["REDIS_URL"])

    def run(self, file: Path) -> None:
        with file.open() as lines:
            while batch := [json.loads(line) for line in islice(lines, BATCH)]:
                self.apply(batch)

    def apply(self, batch: Sequence[Event]) -> None:
        """State, ledger and side effects in one transaction; then the copies; then the side effects are gone."""
        states: dict[str, dict[str, Any]] = {}
        for event in batch:
            before = states.get(event["conversation_id"], {"version": 0})
            states[event["conversation_id"]] = asked(event) | {"version": before["version"] + 1}
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(_MOVE, (json.dumps(list(states.values())),))
            for conversation_id, version in cursor.fetchall():
                states[conversation_id] |= {"first": version - states[conversation_id]["version"], "version": version}
            cursor.execute(_RECORD, (json.dumps(_ledger(batch, states)), sorted(states), _KINDS))
            filed = [row[0] for row in cursor.fetchall()]
        self.write_copies(states)
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(_SAVE, (json.dumps(list(states.values())),))
            cursor.execute("DELETE FROM side_effects WHERE id = ANY(%s)", (filed,))

    def write_copies(self, states: dict[str, dict[str, Any]]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for state in states.values():
            pipeline.eval(*cache_arguments(state))
        for state in states.values():
            pipeline.publish(*frame_arguments(state))
        pipeline.execute()


def _ledger(batch: Sequence[Event], states: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for event in batch:
        state = states[event["conversation_id"]]
        state["first"] += 1
        status = "active" if event["destination"] == "ai" else "support_active"
        known = {"outcome": "applied", "version": state["first"], "status": status, "received_at": event["occurred_at"]}
        rows.append(event | known)
    return rows


def main() -> None:
    """Until killed: whatever file appears in the folder."""
    folder, loop = Path(sys.argv[1]), Loop()
    print("floor ready", flush=True)  # noqa: T201 - the benchmark waits for it
    while True:
        for file in sorted(folder.glob("*.jsonl")):
            loop.run(file)
            file.unlink()
        time.sleep(0.005)


if __name__ == "__main__":
    main()
