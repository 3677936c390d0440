"""The row as a copy: set right where a stale save has undone a redirect, followed where a person has decided."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, text

from worker.db import reconciliation
from worker.db.control import Control
from worker.db.session import engine, single_statements, translated
from worker.effects import Effect
from worker.errors import Permanent
from worker.failpoints import reach
from worker.hosts import ledger
from worker.hosts.pilito.judge import ACTIVE, SUPPORT
from worker.reconcile import compare
from worker.redirects import State

# Looked at in one transaction; each is a row of the host's that waits meanwhile.
MOST = 200

_THERE = text("SELECT id FROM message_conversation WHERE id = ANY(:ids)")
_DIFFER = """
    SELECT s.conversation_id FROM conversation_states s
    JOIN message_conversation c ON c.id = s.conversation_id AND c.status <> s.status
    WHERE s.version > 0 AND c.status IN (:active, :support) {and_these} LIMIT :most
"""
_THESE_DIFFER = text(_DIFFER.format(and_these="AND s.conversation_id = ANY(:ids)"))
_ANY_DIFFER = text(_DIFFER.format(and_these=""))
_DUE = text("SELECT conversation_id FROM guards WHERE due_at <= now() ORDER BY due_at LIMIT :most")
_STATUSES = {"active": ACTIVE, "support": SUPPORT, "most": MOST}
_CONTROL = text("""
    SELECT coalesce(s.ai_enabled, true) AND coalesce(c.status = :active, true) AS ai_enabled, coalesce(s.version, 0)
    FROM (SELECT CAST(:id AS text) AS id) AS asked
    LEFT JOIN conversation_states s ON s.conversation_id = asked.id AND s.version > 0
    LEFT JOIN message_conversation c ON c.id = asked.id
""")
_ROW = text("SELECT id, status, user_id, updated_at FROM message_conversation WHERE id = :id")


def save(states: Sequence[State]) -> Mapping[str, Exception]:
    """Settle the rows with the present states, whatever `states` say: a late writer brings no old owner back."""
    reach("mid_effect_record")
    ids = [state.conversation_id for state in states]
    for start in range(0, len(ids), MOST):
        ledger().look(ids[start : start + MOST])
    with translated(), engine().connect() as connection:
        there = set(connection.execute(_THERE, {"ids": ids}).scalars())
    gone = Permanent("the host has no such conversation in message_conversation")
    return {conversation_id: gone for conversation_id in ids if conversation_id not in there}


def drifted(states: Sequence[State]) -> dict[str, int | None]:
    """Rows that say something else than the state. Which of the two holds is for `save` to find."""
    ids = [state.conversation_id for state in states]
    with translated(), engine().connect() as connection:
        found = connection.execute(_THESE_DIFFER, _STATUSES | {"ids": ids, "most": len(ids)})
        return dict.fromkeys(found.scalars())


def control(engine: Engine, conversation_id: str) -> Control:
    """The AI may speak where the state and the row both say so. Raises Transient."""
    with translated(), engine.connect() as connection:
        return Control(*connection.execute(_CONTROL, {"id": conversation_id, "active": ACTIVE}).one())


def shown(engine: Engine, conversation_id: str) -> dict[str, Any] | None:
    """The row, for people who look."""
    with translated(), engine.connect() as connection:
        row = connection.execute(_ROW, {"id": conversation_id}).mappings().first()
    return dict(row) if row else None


def noticed(engine: Engine) -> Collection[str]:
    """Follow the rows that the host's own screens have changed; the conversations. Raises Transient."""
    with translated(), engine.connect() as connection:
        ids = connection.execute(_ANY_DIFFER, _STATUSES).scalars().all()
    return ledger().look(ids) if ids else ()


def tend(engine: Engine, flag: Effect) -> Collection[str]:
    """Look at the redirects whose time it is: their rows, and their flags. The conversations. Raises Transient."""
    with translated(), engine.connect() as connection:
        ids = connection.execute(_DUE, {"most": MOST}).scalars().all()
    if not ids:
        return ()
    ledger().look(ids)
    with translated(), single_statements(engine) as connection:
        drift, _ = compare(connection, reconciliation.these(connection, ids), [flag])
        for kind, shows in drift.items():
            reconciliation.file(connection, kind, shows)
    return ids
