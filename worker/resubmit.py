"""Rejected events, back into the outbox."""

import json
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from worker.db import outbox, rejected
from worker.db.session import translated
from worker.errors import Permanent, Rejected
from worker.events import Event, decode, parse
from worker.messages import unpack

# Of an id: 12 hexadecimal digits. Two of a million rows share them once in 500 such tables.
SHORT = 13
_DATA_URL = "data:application/octet-stream;base64,"
_PARKED = {"headers", "content_type", "content_encoding", "body"}


def run(
    engine: Engine,
    ids: Iterable[UUID],
    mended: Mapping[str, Any],
    destinations: Collection[str],
    tell: Callable[[str, bool], object],
) -> dict[str, Any]:
    """Resubmit `ids` one by one: the events that went, and what stays and why.

    `tell` hears each as a sentence, and whether it went. Raises Transient when the database says no for now.
    """
    done: list[dict[str, Any]] = []
    stays: list[dict[str, Any]] = []
    for identity in ids:
        try:
            events = resubmit(engine, identity, mended, destinations)
        except (Rejected, Permanent) as error:
            stays.append({"id": identity, "error": str(error)})
            tell(plain(f"{short(identity)} stays: {error}"), False)
            continue
        for event in events:
            done.append({"id": identity} | event.model_dump(include={"event_id", "conversation_id", "destination"}))
            names = f"{event.event_id}: {event.conversation_id} -> {event.destination}"
            tell(plain(f"resubmitted {names} (by the outbox; the intake passes it on)"), True)
    return {"resubmitted": done, "stays": stays}


def resubmit(engine: Engine, identity: UUID, mended: Mapping[str, Any], destinations: Collection[str]) -> list[Event]:
    """Move the events of a row into the outbox, in one transaction: they are never in neither place.

    Raises Rejected when it holds no event, or one that would be refused again: then all of the row stays.
    """
    with translated(), engine.begin() as connection:
        row = rejected.take(connection, identity)
        if row is None:
            raise Permanent("it is not there any more")
        raws = _events_of(row.body)
        if len(raws) > 1 and "event_id" in mended:
            raise Rejected("malformed", f"it holds {len(raws)} events: they cannot all have one event_id")
        events = [_valid(raw, mended, destinations, row.clock) for raw in raws]
        outbox.store(connection, [_timed(event, row.received_at, n) for n, event in enumerate(events)])
    return events


def _events_of(body: str) -> list[object]:
    try:
        return events_in(body)
    except Rejected as refusal:
        advice = "its producer has to send it again, or you with `redirect-worker send`"
        raise Rejected(refusal.code, f"it holds no event that can be read ({refusal}): {advice}") from None


def _valid(raw: object, mended: Mapping[str, Any], destinations: Collection[str], clock: datetime) -> Event:
    known = fields_of(raw) if mended else {}
    fields = {name: value for name, value in {**known, **mended}.items() if value is not None}
    try:
        event = parse(fields if known else raw, destinations)
    except Rejected as refusal:
        raise Rejected(refusal.code, f"it would be refused again: {refusal}; mend it with --set field=value") from None
    if event.expires_at is not None and event.expires_at <= clock:
        raise Rejected(
            "expired", f"expires_at has passed ({event.expires_at:%F %T %Z}); --set expires_at=null lifts it"
        )
    return event


def _timed(event: Event, received_at: datetime, position: int) -> str:
    """Its JSON. Without a time of its own it was decided when it was received, not when a person sent it again."""
    fields = {name: value for name, value in event.model_dump().items() if value is not None}
    if event.occurred_at is None:
        fields.setdefault("received_at", received_at + timedelta(microseconds=position))
    return json.dumps(fields, default=datetime.isoformat, ensure_ascii=False)


def changes(settings: Sequence[str]) -> dict[str, Any]:
    """`field=value` by field. The value is JSON if it is JSON, else text; None removes the field.

    A number or a boolean is text too: no field of an event is one. Raises Permanent for what is no field.
    """
    return dict(map(_change, settings))


def _change(setting: str) -> tuple[str, Any]:
    field, equals, value = setting.partition("=")
    if not equals or field not in Event.model_fields:
        raise Permanent(f"--set {setting} should be field=value, with a field of: {', '.join(Event.model_fields)}")
    try:
        read = decode(value)
    except Rejected:
        return field, value
    return field, read if isinstance(read, str | list | dict | None) else value


def fields_of(raw: object) -> Mapping[str, Any]:
    """The JSON object in `raw`; empty where there is none."""
    try:
        value = decode(raw) if isinstance(raw, str) else raw
    except Rejected:
        return {}
    return value if isinstance(value, dict) else {}


def raw_of(body: str) -> bytes | str:
    """As it came: worker.db.rejected keeps bytes that are no text as a data URL."""
    try:
        return b64decode(body.removeprefix(_DATA_URL), validate=True) if body.startswith(_DATA_URL) else body
    except ValueError:
        return body


def events_in(body: str) -> list[object]:
    """The events that a kept body holds, each a dict or JSON, not validated. Raises Rejected when it holds none."""
    value = fields_of(body)
    if value.keys() >= _PARKED and isinstance(value["body"], str):
        return _held(raw_of(value["body"]), value["content_type"], value["headers"])
    return _held(raw_of(body))


def _held(body: bytes | str, content_type: object = None, headers: object = None) -> list[object]:
    if called := _called(body):
        return called
    kind = content_type if isinstance(content_type, str) else None
    unpacked = unpack(body, kind, headers if isinstance(headers, dict) else None)
    for _, refusal in unpacked.refused:
        raise refusal
    if not unpacked.events:
        raise Rejected("malformed", "it is empty")
    return list(unpacked.events)


def _called(body: bytes | str) -> list[object]:
    """The events of a call of the task, as Celery writes it: [args, kwargs, embed], or by name in protocol 1."""
    try:
        call = decode(body)
    except Rejected:
        return []
    if isinstance(call, dict):
        call = [call.get("args"), call.get("kwargs") or {}, {}] if "task" in call else None
    if not isinstance(call, list) or len(call) != 3 or not isinstance(call[0], list):
        return []
    return [*call[0], *([call[1]] if call[1] else [])]


def short(identity: UUID) -> str:
    return str(identity)[:SHORT]


def plain(text: str, but: str = "") -> str:
    """A producer wrote it: nothing in it, save `but`, may steer the terminal of whoever reads it."""
    return "".join(char if char.isprintable() or char in but else repr(char)[1:-1] for char in text)
