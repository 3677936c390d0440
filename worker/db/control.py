"""Who answers in a conversation, by the truth."""

from typing import NamedTuple

from sqlalchemy import Engine, text

from worker.db.session import translated

# A row of version 0 is a lock of a transaction that has decided nothing yet.
_CONTROL = text("SELECT ai_enabled, version FROM conversation_states WHERE conversation_id = :id AND version > 0")


class Control(NamedTuple):
    ai_enabled: bool
    version: int


def control(engine: Engine, conversation_id: str) -> Control:
    """A conversation without a state was never given to people: it is the AI's, in version 0. Raises Transient."""
    with translated(), engine.connect() as connection:
        row = connection.execute(_CONTROL, {"id": conversation_id}).first()
    return Control(row.ai_enabled, row.version) if row else Control(ai_enabled=True, version=0)
