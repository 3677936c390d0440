"""What producers and AI responders import: `RedirectClient` sends redirects, `ai_permit` asks whether the AI may speak.

Importing it opens nothing, and needs neither Celery nor a database.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from threading import BoundedSemaphore, Lock, Thread
from typing import Any, Self
from uuid import uuid4
from weakref import WeakSet

from worker.broker import Connection
from worker.errors import Rejected, Transient
from worker.events import encode, shaped
from worker.permit import Permit, ai_permit
from worker.sender import Call, OutOfTime, Sender

__all__ = ["BrokerUnavailable", "Permit", "RedirectClient", "Rejected", "ai_permit", "apply_in"]

# Events and bytes of one message: what one transaction carries with ease, and half of what the intake lets pass.
BATCH, LARGEST = 200, 8 * 1024 * 1024
# Connections of one client: threads beyond that wait for one of them.
CONNECTIONS = 10

NOTHING_SENT = "the broker takes nothing now, and nothing was sent"
RESULT_UNKNOWN = "not confirmed, the result is unknown; sending again with the same event_id and occurred_at is safe"


class BrokerUnavailable(Transient):
    """The broker did not confirm in time; send `events` again.

    `events` are those that are not confirmed, with their event_id and occurred_at. Sent again as they are, they change
    nothing if they had arrived; with another time they would be refused as a conflict.
    """

    def __init__(self, message: str | None = None, events: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.events = [dict(event) for event in events]


class RedirectClient:
    """Puts redirect events on the JSON queue. For any number of threads, and across forks."""

    def __init__(self, broker_url: str, timeout: float = 2.0) -> None:
        """`broker_url` as BROKER_URL; `timeout` is what one call may take, in seconds. Opens nothing yet."""
        Connection(broker_url)  # refuses what is no address, and imports the transport while no clock runs
        self._url, self._timeout = broker_url, timeout
        self._start_afresh()
        _clients.add(self)

    def _start_afresh(self) -> None:
        self._idle: list[Sender] = []
        self._lock, self._free = Lock(), BoundedSemaphore(CONNECTIONS)

    def redirect(
        self,
        conversation_id: str,
        destination: str,
        *,
        event_id: str | None = None,
        occurred_at: datetime | str | None = None,
        owner_id: str | None = None,
        source: str | None = None,
        actor: Mapping[str, Any] | None = None,
        reason: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expires_at: datetime | str | None = None,
    ) -> str:
        """Send one event; its event_id, once the broker has confirmed it. Raises Rejected and BrokerUnavailable.

        Without an `event_id` it gets one, without `occurred_at` the time is now.
        """
        fields = {
            "event_id": event_id,
            "conversation_id": conversation_id,
            "destination": destination,
            "occurred_at": occurred_at,
            "owner_id": owner_id,
            "source": source,
            "actor": actor,
            "reason": reason,
            "metadata": metadata,
            "expires_at": expires_at,
        }
        event = completed({name: value for name, value in fields.items() if value is not None}, datetime.now(UTC))
        shaped(event)
        self._send([event])
        return str(event["event_id"])

    def redirect_many(self, events: Iterable[Mapping[str, Any]]) -> list[str]:
        """Send events of the contract's shape; their event_ids, once the broker has confirmed all.

        Raises Rejected, naming the event and the field, before anything is sent; BrokerUnavailable with the events that
        are not confirmed. All share one timeout: send very many in several calls.
        """
        ready = _all_completed(events)
        if ready:
            self._send(ready)
        return [str(event["event_id"]) for event in ready]

    def close(self) -> None:
        """Let go of the connections, within the timeout; a later call makes new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        closing = [Thread(target=sender.close, daemon=True) for sender in idle]
        for thread in closing:
            thread.start()
        deadline = time.monotonic() + self._timeout
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, events: Sequence[dict[str, Any]]) -> None:
        batches = list(_batches(events))
        call = Call([encode(batch) for batch in batches], time.monotonic() + self._timeout, _trace())
        if not (free := self._free).acquire(timeout=self._timeout):
            raise BrokerUnavailable(f"{NOTHING_SENT}: {CONNECTIONS} calls at once, and none has ended", events)
        try:
            self._work(call)
        finally:
            free.release()
        if call.error is not None:
            raise self._unavailable(call, [event for batch in batches[call.confirmed :] for event in batch])

    def _work(self, call: Call) -> None:
        with self._lock:
            sender = self._idle.pop() if self._idle else Sender(self._url, self._timeout)
        Thread(target=sender.run, args=(call,), daemon=True, name="redirect-client").start()
        call.wait()
        if call.error is None:
            with self._lock:
                self._idle.append(sender)

    def _unavailable(self, call: Call, events: Sequence[dict[str, Any]]) -> BrokerUnavailable:
        late = isinstance(call.error, OutOfTime)
        reason = f"no answer within {self._timeout:g} s" if late else str(call.error) or type(call.error).__name__
        error = BrokerUnavailable(f"{RESULT_UNKNOWN if call.begun else NOTHING_SENT}: {reason}", events)
        error.__cause__ = call.error
        return error


def apply_in(connection_or_django_alias: Any, event: Mapping[str, Any]) -> dict[str, Any]:
    """Redirect in the caller's own transaction: the ledger and, where REDIRECT_HOST says so, the host's row move with
    it or not at all, and the copies follow after its commit.

    The first is the name of a Django database ("default"), a psycopg2 connection that is in a transaction, or an
    SQLAlchemy Connection; it must be to DATABASE_URL's database. `event` is the contract's; without an `event_id` it
    gets one. Returns `{"redirected_to", "old_status", "new_status", "ai_enabled"}`: what was asked, and what holds.

    Raises Rejected for what can never be applied, which is kept in rejected_events; Transient when the database says no
    for now: then nothing of it is done, and the caller's transaction can go on. Waits for locks for some seconds at
    most, and for no broker and no Redis.
    """
    from worker.in_transaction import apply  # producers that send pay for no database

    return apply(connection_or_django_alias, completed(event, None))


def _trace() -> dict[str, str]:
    """The producer's open span, as headers: only where its program traces, with OpenTelemetry, already."""
    if (propagate := sys.modules.get("opentelemetry.propagate")) is None:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {name: value for name, value in carrier.items() if name == "traceparent"}  # baggage may be personal


def completed(event: Mapping[str, Any], now: datetime | None) -> dict[str, Any]:
    """`event` as JSON holds it, with an event_id, and a time if there is a `now`. Raises Rejected for no mapping."""
    if not isinstance(event, Mapping):
        raise Rejected("malformed", f"an event should be a mapping, not {type(event).__name__}")
    fields = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in event.items()}
    if fields.get("event_id") is None:
        fields["event_id"] = str(uuid4())
    if fields.get("occurred_at") is None and now is not None:
        fields["occurred_at"] = now.isoformat()
    return fields


def _all_completed(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each event checked. What came later in the call happened later, be it by a microsecond: that decides who wins."""
    now, ready = datetime.now(UTC), []
    for number, event in enumerate(events):
        try:
            ready.append(completed(event, now + timedelta(microseconds=number)))
            shaped(ready[-1])
        except Rejected as refusal:
            raise Rejected(refusal.code, f"events[{number}]: {refusal.error}") from None
    return ready


def _batches(events: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Runs of what one message holds."""
    batch: list[dict[str, Any]] = []
    size = 0
    for event in events:
        length = len(encode(event)) + len(", ")
        if batch and (len(batch) == BATCH or size + length > LARGEST):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += length
    if batch:
        yield batch


# So that the child of a fork never writes to its parent's sockets, nor waits for a lock that nobody holds any more.
_clients: "WeakSet[RedirectClient]" = WeakSet()


def _after_fork_in_child() -> None:
    for client in _clients:
        client._start_afresh()


os.register_at_fork(after_in_child=_after_fork_in_child)
