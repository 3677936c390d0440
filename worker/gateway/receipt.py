"""The receipt of `POST /events`: what is valid in the outbox, the rest in rejected_events, in one transaction."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Engine

from config.settings import settings
from worker.db import receipts, rejected
from worker.db.session import make_engine
from worker.errors import Rejected
from worker.events import MAX_BYTES, MAX_METADATA_BYTES, Event, Received, parse, too_large, trace_context
from worker.gateway.views import View
from worker.messages import unpack

SOURCE = "POST /events"
# Bytes of what the outbox adds where it is missing.
_TIME = len('"received_at": "2026-11-22T10:00:00.120000Z", ')


class _Refused(NamedTuple):
    position: int
    raw: object
    why: Rejected


class _Stored(NamedTuple):
    event_id: str
    text: str
    event: Event


@dataclass(frozen=True)
class Receipt:
    """What a body holds, read and sorted, and not kept yet."""

    events: list[_Stored]
    refused: list[_Refused]
    rows: list[dict[str, str | None]]

    def keep(self) -> None:
        """Commit all of it. Raises Transient: then it may be committed or not."""
        receipts.keep(_engine(), [event.text for event in self.events], self.rows)

    def not_shown_by(self, view: View) -> str | None:
        """What the first event names that is not in `view`, also of those that are refused; None if all are in it.

        An event must name the owner: the ledger then holds it to that (`owner_mismatch`).
        """
        if view.everything:
            return None
        told = [(stored.event.owner_id, stored.event.conversation_id) for stored in self.events]
        refused = [rejected.fields(one.raw) for one in self.refused]
        told += [(fields.get("owner_id"), fields.get("conversation_id", "")) for fields in refused]
        return next((f"{owner!r}, {name!r}" for owner, name in told if not view.shows(owner, name)), None)

    def answer(self) -> dict[str, Any]:
        accepted = [event.event_id for event in self.events]
        return {"accepted": accepted, "rejected": [_told(one) for one in self.refused]}


def read(body: bytes, headers: Mapping[str, str]) -> Receipt:
    """What `body` holds. Asks no database; takes a second of the processor for the largest body."""
    events, refused = _sorted(body, headers)
    rows = [rejected.row(one.raw, one.why.code, one.why.error, SOURCE) for one in refused]
    return Receipt(events, refused, rows)


def _sorted(body: bytes, headers: Mapping[str, str]) -> tuple[list[_Stored], list[_Refused]]:
    unpacked = unpack(body, headers.get("content-type"), headers)
    events = []
    refused = [_Refused(at, *one) for at, one in zip(unpacked.refused_at, unpacked.refused, strict=True)]
    caller = trace_context(headers.get("traceparent"))
    for at, text in zip(unpacked.events_at, unpacked.events, strict=True):
        try:
            event = parse(text, settings().destinations)
            events.append(_Stored(event.event_id, _normalized(_traced(event, caller)), event))
        except Rejected as why:
            refused.append(_Refused(at, text, why))
    return events, sorted(refused, key=lambda one: one.position)


def _traced(event: Received, caller: str | None) -> Received:
    """The request's trace goes on with the event, through the outbox, where the event does not name one."""
    if caller is None or event.traceparent is not None:
        return event
    return event.model_copy(update={"traceparent": caller})


def _normalized(event: Event) -> str:
    """The fields that we know: jsonb cannot hold every text that a producer may put into others.

    Raises Rejected for what the outbox would make too large: better now than after a 202.
    """
    fields = event.model_dump(mode="json", exclude_unset=True)
    text = json.dumps(fields, ensure_ascii=False)  # with a space after each comma and colon, as jsonb writes it
    zeros = _written_out(event.metadata or {})
    if zeros and len(json.dumps(event.metadata, ensure_ascii=False).encode()) + zeros > MAX_METADATA_BYTES:
        raise Rejected("malformed", "metadata: should be at most 4 KiB of JSON with its numbers written out")
    if (size := len(text.encode()) + zeros + _TIME) > MAX_BYTES:
        raise too_large("an event, as PostgreSQL writes it,", MAX_BYTES, size)
    return text


def _written_out(metadata: Mapping[str, Any]) -> int:
    """Bytes that jsonb adds to numbers: it writes 1e300 with all of its zeros."""
    floats = (repr(value) for value in metadata.values() if isinstance(value, float))
    return sum(len(f"{Decimal(number):f}") - len(number) for number in floats)


def _told(refused: _Refused) -> dict[str, Any]:
    why = refused.why
    return {"position": refused.position, "event_id": _event_id(refused.raw), "code": why.code, "error": why.error}


def _event_id(raw: object) -> str | None:
    """What the producer calls it, as far as it can be told."""
    fields = raw
    with suppress(ValueError, RecursionError):
        fields = json.loads(raw) if isinstance(raw, str | bytes) else raw
    event_id = (fields.get("event_id") or fields.get("id")) if isinstance(fields, dict) else None
    return event_id if isinstance(event_id, str) and not _unprintable(event_id) else None


def _unprintable(text: str) -> bool:
    return len(text) > 200 or any("\ud800" <= char <= "\udfff" for char in text)


@lru_cache(maxsize=1)
def _engine() -> Engine:
    """Connections of their own: reads that hang take none of them."""
    return make_engine(settings().url("database_url"))
