"""Bytes that should be events: parsed or refused, by every reader of them; and then kept by PostgreSQL."""

import json
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded

from config.settings import DESTINATIONS
from tests.fuzz import spelling
from tests.fuzz.rounds import Rounds, numbered, trying
from tests.integration.ledgers import execute, gaps, ledger_of
from tests.service import Service
from tests.unit.test_events_fuzz import check, near_events, outcome
from tests.unit.test_messages_fuzz import BODIES, HEADERS, TYPES
from worker.db import receipts, rejected
from worker.db.repeats import comparable
from worker.errors import Rejected
from worker.events import Event, parse
from worker.gateway import receipt
from worker.messages import unpack

CODES = {"malformed", "too_large", "unknown_destination"}
EXAMPLES, SPELLED = 100, 1000


def read(body: bytes | str, content_type: str | None, headers: Any) -> list[str]:
    """What every reader makes of it: events, or refusals with a code of the contract that can be kept. The events."""
    check(body)
    unpacked = unpack(body, content_type, headers)
    assert unpacked.events or unpacked.refused
    for raw, why in unpacked.refused:
        assert why.code in CODES
        assert "\x00" not in str(rejected.row(raw, why.code, why.error, "x")["body"])
    for text in unpacked.events:
        check(text)
        one, other = outcome(text), outcome(json.loads(text))
        assert repr(one) == repr(other) if isinstance(one, Event) else isinstance(other, Rejected)
    return unpacked.events


def test_events(rounds: Rounds) -> None:
    """No bytes raise anything but Rejected; JSON is the same event as text and as a value."""
    rounds.run(any_bytes, most=1)


def any_bytes(random: Random) -> int:
    @seeded(random.getrandbits(60))
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(BODIES | near_events.map(json.dumps), TYPES, HEADERS)
    def generated(body: bytes | str, content_type: str | None, headers: Any) -> None:
        read(body, content_type, headers)

    generated()
    for token in numbered(random, SPELLED):
        with trying(found := message(random, token)):
            read(*found)
    return EXAMPLES + SPELLED


def message(random: Random, token: str) -> tuple[bytes, str | None, dict[str, Any]]:
    return spelling.body(random, token), random.choice(spelling.TYPES), spelling.attributes(random, token)


def test_ledger(rounds: Rounds, service: Service) -> None:
    """PostgreSQL takes whatever parses, in a batch with what does not; each has its outcome, and versions no gap."""
    rounds.run(lambda random: batch(service, random), most=10)
    assert gaps(service) == []


def batch(service: Service, random: Random) -> int:
    raws: list[object] = []
    for token in numbered(random, 40):
        body = spelling.body(random, token)
        raws += [body, *unpack(body, random.choice(spelling.TYPES), spelling.attributes(random, token)).events]
    raws += [value for raw in raws if (value := valued(raw)) is not None]
    random.shuffle(raws)
    with trying(raws):
        ledger = ledger_of(service)
        outcomes = ledger.accept(raws).outcomes
        again = ledger.accept(raws).outcomes
        assert len(outcomes) == len(raws)
        for first, second in zip(outcomes, again, strict=True):
            assert first == second or "rejected" in (first.outcome, second.outcome), (first, second)
    return len(raws)


def valued(raw: object) -> object:
    try:
        return json.loads(raw)  # type: ignore[arg-type]
    except (ValueError, RecursionError):
        return None


def test_outbox(rounds: Rounds, service: Service) -> None:
    """What `POST /events` has accepted is the same event when it comes back from the outbox."""
    rounds.run(lambda random: through_the_outbox(service, random), most=10)


def through_the_outbox(service: Service, random: Random) -> int:
    read_ = []
    for token in numbered(random, 40):
        body, content_type, headers = message(random, token)
        with trying((body, content_type, headers)):
            headers = {name: str(value) for name, value in headers.items()}
            made = receipt.read(body, headers | ({"content-type": content_type} if content_type else {}))
            made.answer()
            read_.append(made)
    texts = [event.text for made in read_ for event in made.events]
    execute(service, "DELETE FROM event_outbox")
    with trying(texts):
        receipts.keep(service.engine, texts, [row for made in read_ for row in made.rows])
        back = [row["body"] for row in service.rows("SELECT CAST(body AS text) AS body FROM event_outbox ORDER BY id")]
    asked = [event.event for made in read_ for event in made.events]
    for text, event in zip(back, asked, strict=True):
        with trying(text):
            (unpacked,) = unpack(text).events
            stored = parse(unpacked, DESTINATIONS)
            assert said(stored) == said(event)
    return len(read_)


def said(event: Event) -> dict[str, object]:
    """All of it by what it is worth: jsonb writes 1e300 with all of its zeros."""
    fields = event.model_dump(exclude={"received_at"})
    return {name: comparable(value) for name, value in fields.items()}
