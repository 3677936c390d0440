"""What a producer sent, kept in one transaction: the outbox for what is valid, rejected_events for the rest."""

import json
from collections.abc import Sequence

from sqlalchemy import Engine, text

from worker.db import outbox
from worker.db.session import translated

# All at once: one by one, ten thousand take seconds.
_KEEP = text("""
    INSERT INTO rejected_events (id, source, code, error, body, conversation_id)
    SELECT id, source, code, error, body, conversation_id
    FROM json_populate_recordset(null::rejected_events, CAST(:rows AS json)) ORDER BY id
    ON CONFLICT (id) DO NOTHING
""")


def keep(engine: Engine, events: Sequence[str], rows: Sequence[dict[str, str | None]]) -> None:
    """Commit `events` (each JSON) and `rows` (of rejected.row), or nothing.

    Raises Transient: then they may be committed or not. Rows go in in one order, or two calls that share some deadlock.
    """
    with translated(), engine.begin() as connection:
        outbox.store(connection, events)
        if rows:
            connection.execute(_KEEP, {"rows": json.dumps(rows, ensure_ascii=False)})
