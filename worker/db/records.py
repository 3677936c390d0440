"""The conversation record, a copy for the host application's users. Another store is another file like this one."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

import orjson
from sqlalchemy import Engine, text

from worker.db.session import translated
from worker.redirects import FARTHEST, State


class RecordStore(Protocol):
    """Where `save_conversation` writes. Made once per process, with the engine of `DATABASE_URL`.

    Its sessions prefer an index to a sequential scan (`enable_seqscan = off`, worker/db/session.py).
    """

    def save(self, states: Sequence[State]) -> Mapping[str, Exception]:
        """Bring the records of these states (ordered by id) up to date; never back to an older version.

        Returns the error of each conversation that failed; raises Permanent or Transient when all did.
        """
        ...

    def drifted(self, states: Sequence[State]) -> Mapping[str, int | None]:
        """The ids of those whose record does not show them, with the version it shows (None: there is none, or no
        record). Empty if there is no telling. Raises Permanent or Transient.
        """
        ...


class BundledRecords:
    """The table `conversations` that comes with the service."""

    # <= and not <: an owner that was learned late comes without a new version. What was not written by us (one too far
    # ahead) is overwritten: the state is the truth.
    SAVE = text("""
        INSERT INTO conversations (id, owner_id, status, ai_enabled, destination, version, updated_at)
        SELECT id, owner_id, status, ai_enabled, destination, version, now()
        FROM json_populate_recordset(null::conversations, CAST(:rows AS json)) ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET owner_id = excluded.owner_id, status = excluded.status, ai_enabled = excluded.ai_enabled,
            destination = excluded.destination, version = excluded.version, updated_at = excluded.updated_at
        WHERE conversations.version <= excluded.version OR conversations.version > excluded.version + :far
    """)
    DRIFTED = text("""
        SELECT n.id, CASE WHEN c.version BETWEEN n.version - :far AND n.version + :far THEN c.version END AS version
        FROM json_populate_recordset(null::conversations, CAST(:rows AS json)) n
        LEFT JOIN conversations c ON c.id = n.id
        WHERE (c.owner_id, c.status, c.ai_enabled, c.destination, c.version)
            IS DISTINCT FROM (n.owner_id, n.status, n.ai_enabled, n.destination, n.version)
    """)

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def save(self, states: Sequence[State]) -> Mapping[str, Exception]:
        with translated(), self.engine.begin() as connection:
            connection.execute(self.SAVE, {"rows": _rows(states), "far": FARTHEST})
        return {}

    def drifted(self, states: Sequence[State]) -> Mapping[str, int | None]:
        with translated(), self.engine.connect() as connection:
            rows = connection.execute(self.DRIFTED, {"rows": _rows(states), "far": FARTHEST})
            return {row.id: row.version for row in rows}


def _rows(states: Sequence[State]) -> str:
    rows = [
        {
            "id": state.conversation_id,
            "owner_id": state.owner_id,
            "status": state.status,
            "ai_enabled": state.ai_enabled,
            "destination": state.destination,
            "version": state.version,
        }
        for state in states
    ]
    return orjson.dumps(rows).decode()


def store(name: str, engine: Engine) -> RecordStore:
    """The store that `name` ("module:Class", REDIRECT_RECORD_STORE) means."""
    module, _, attribute = name.partition(":")
    made: RecordStore = getattr(import_module(module), attribute)(engine)
    return made
