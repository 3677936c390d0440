"""An event that comes once more: the outcome that it had, unless it says something else now."""

from decimal import Decimal
from typing import Any

from worker.errors import Rejected
from worker.events import Received
from worker.redirects import Outcome

# The times are compared apart; the rest came with the message.
_NOT_ASKED = {"occurred_at", "expires_at", "received_at", "traceparent"}
_OUTCOME = ("event_id", "conversation_id", "outcome", "code", "version", "previous_status", "status", "destination")


def asked(event: Received) -> dict[str, Any]:
    """What the producer said, by the names of the columns; the times apart."""
    return event.model_dump(exclude=_NOT_ASKED)


def repeated(event: Received, known: dict[str, Any]) -> Outcome:
    """The first outcome of an event whose row is `known`, or Rejected (`conflict`) when it said something else then."""
    said = asked(event)
    if event.occurred_at is not None:
        said["occurred_at"] = event.occurred_at
    for name, value in said.items():
        if comparable(value) != comparable(known[name]):
            raise Rejected("conflict", f"event_id {event.event_id!r} is known with another {name}: use a new event_id")
    return Outcome(**{name: known[name] for name in _OUTCOME})


def comparable(value: object) -> object:
    """JSON numbers come back from PostgreSQL as they were worth, not as they were written: 1e300 as 300 zeros."""
    if isinstance(value, dict):
        return {name: comparable(scalar) for name, scalar in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(repr(value))
    return type(value).__name__, value
