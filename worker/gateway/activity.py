"""What happens lately, counted: redirects by minute and destination, and what is behind."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from worker.db.session import translated

MINUTE = timedelta(minutes=1)
MINUTES = 30
# A transaction may commit that long after the time it gave its events.
SETTLED_AFTER = timedelta(seconds=30)

_COUNTS = text("""
    SELECT date_trunc('minute', received_at) AS minute, destination, count(*) AS redirects FROM redirects
    WHERE received_at >= :since AND outcome = 'applied' GROUP BY minute, destination
""")
_BEHIND = text("""
    SELECT kind, state, sum(cardinality(conversation_ids))::bigint AS conversations,
        min(created_at) FILTER (WHERE state = 'waiting') AS oldest
    FROM side_effects GROUP BY kind, state
""")

# Minutes that are over are counted once for all who ask.
_over: dict[datetime, dict[str, int]] = {}


def read(engine: Engine) -> dict[str, Any]:
    with translated(), engine.connect() as connection:
        now = connection.execute(text("SELECT now()")).scalar_one().astimezone(UTC)
        minutes = _minutes(connection, now)
        rows = connection.execute(_BEHIND).all()
    return {
        "minutes": minutes,
        "behind": {row.kind: row.conversations for row in rows if row.state == "waiting"},
        "dead": {row.kind: row.conversations for row in rows if row.state == "dead"},
        "oldest_waiting": min((row.oldest for row in rows if row.oldest), default=None),
    }


def _minutes(connection: Connection, now: datetime) -> list[dict[str, Any]]:
    this = now.replace(second=0, microsecond=0)
    wanted = [this - MINUTE * back for back in range(MINUTES - 1, -1, -1)]
    counts: dict[datetime, Counter[str]] = {minute: Counter() for minute in wanted if minute not in _over}
    for row in connection.execute(_COUNTS, {"since": min(counts)}):
        counts.get(row.minute.astimezone(UTC), Counter())[row.destination] += row.redirects
    settled = {minute: dict(found) for minute, found in counts.items() if minute + MINUTE + SETTLED_AFTER < now}
    found = {**_over, **{minute: dict(one) for minute, one in counts.items()}}
    _over.update(settled)
    for minute in [minute for minute in list(_over) if minute < wanted[0]]:
        _over.pop(minute, None)  # another thread may do the same
    return [{"minute": minute, "counts": found[minute]} for minute in wanted]
