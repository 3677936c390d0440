"""Redirect a conversation in the transaction of a SQLAlchemy session: both happen, or neither.

    pip install sqlalchemy psycopg2-binary
    DATABASE_URL=postgresql+psycopg2://... python tickets.py c-alchemy-1
    DATABASE_URL=postgresql+psycopg2://... python tickets.py c-alchemy-2 --fail

The database's role needs: GRANT EXECUTE ON FUNCTION enqueue_redirect(json) TO <role>
"""

import json
import os
import sys
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Ticket(Base):
    __tablename__ = "sqlalchemy_tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(unique=True)
    team: Mapped[str]


def enqueue_redirect(session: Session, event: dict[str, Any]) -> None:
    """Put `event` into the outbox, in the session's transaction."""
    session.execute(text("SELECT enqueue_redirect(CAST(:event AS json))"), {"event": json.dumps(event)})


def open_ticket(session: Session, conversation_id: str, fail: bool) -> None:
    ticket = Ticket(conversation_id=conversation_id, team="billing")
    session.add(ticket)
    session.flush()
    enqueue_redirect(
        session,
        {
            "event_id": f"sqlalchemy-ticket-{ticket.id}",
            "conversation_id": conversation_id,
            "destination": ticket.team,
            "source": "examples/sqlalchemy",
        },
    )
    if fail:
        raise RuntimeError("something else went wrong: no ticket, no redirect")


if __name__ == "__main__":
    engine = create_engine(os.environ["DATABASE_URL"])
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        open_ticket(session, sys.argv[1], fail="--fail" in sys.argv)
    sys.stdout.write("ticket opened, conversation redirected\n")
