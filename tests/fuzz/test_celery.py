"""Celery's protocol against a real worker: hurt messages on either broker, and between its own control messages."""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from amqp.basic_message import Message

from tests.eventually import eventually
from tests.fuzz import spelling
from tests.fuzz.amqp_wire import Publisher, Raw, Wire, nested, properties
from tests.fuzz.rounds import Rounds, numbered, trying
from tests.fuzz.watch import Watched, all_kept, forget, watched
from tests.poison import EMBED, body, envelope, event, headers
from tests.poison_amqp import as_amqp
from tests.poison_fuzz import damaged, mutants, torn
from tests.service import Service

MESSAGES, CONTROLS = 100, 5
QUEUES = ["redirects"] * 6 + ["effects.cache", "maintenance"]
COMMANDS = ["ping", "stats", "report", "active", "nonsense", "", None, 5, ["ping"], "__init__", "on_message"]
TYPES = ["application/json", "application/x-python-serialize", "x", ""]
# What a worker says that a message was too much for. (On a busy machine it may lose its connection all the same.)
BROKEN = ["Unrecoverable error", "UnexpectedFrame", "PRECONDITION_FAILED"]


@contextmanager
def worker(service: Service) -> Iterator[Watched]:
    with service.worker() as process:
        yield watched(process, children=4)


@pytest.mark.slow
def test_celery_on_redis(rounds: Rounds, service: Service) -> None:
    """Each message is applied or kept, and the same processes do what comes behind it."""
    with worker(service) as fed:
        rounds.run(lambda random: on_redis(service, fed, random), most=3)


def on_redis(service: Service, fed: Watched, random: Random) -> int:
    items = dict(mutants(random, numbered(random, MESSAGES)))
    for item in items.values():
        service.broker.lpush(random.choice(QUEUES), item)
    for command in controls(random):
        service.broker.publish("/0.celery.pidbox", random.choice((command, envelope({}, command))))
    all_is_well(service, fed, items)
    return len(items) + CONTROLS


@pytest.mark.slow
def test_celery_on_rabbitmq(rounds: Rounds, rabbit_service: Service) -> None:
    """The same, with properties and header tables that no client library writes."""
    with worker(rabbit_service) as fed:
        publisher = Publisher(rabbit_service.broker_url)
        try:
            rounds.run(lambda random: on_rabbitmq(rabbit_service, publisher, fed, random), most=3)
        finally:
            publisher.close()


def on_rabbitmq(service: Service, publisher: Publisher, fed: Watched, random: Random) -> int:
    messages = {token: message(random, token, item) for token, item in mutants(random, numbered(random, MESSAGES))}
    taken = {}
    for token, one in messages.items():
        if publisher.publish(one, "", random.choice(QUEUES)):
            taken[token] = one._serialize_properties(), one.body
    for command in controls(random):
        publisher.publish(Message(command, content_type=random.choice(TYPES)), "celery.pidbox", "")
    all_is_well(service, fed, taken)
    return len(messages) + CONTROLS


def message(random: Random, token: str, item: bytes) -> Any:
    """Most often one with its properties hurt, byte by byte; else what a list item says, if AMQP has a form for it."""
    if random.random() < 0.3 and (said := as_amqp(item)) is not None:
        return said
    content = spelling.holding(token, lambda: called(random, token))
    top = damaged(random, headers(token), random.choice((0, 0, 0, 1)))
    return Raw(content, properties(random, top, random.choice((0, 1, 1, 2)), correlation_id=token))


def called(random: Random, token: str) -> bytes:
    """A body of Celery's with one event, hurt."""
    call = [[spelling.hurt(random, spelling.healthy(random, token))], {}, EMBED]
    content = spelling.encoded(random, spelling.spelled(random, call))
    return torn(random, content) if random.random() < 0.1 else content


def controls(random: Random) -> list[bytes]:
    """Messages of the control channel that nobody can carry out, and some that somebody could."""
    return [torn(random, _control(random)) if random.random() < 0.5 else _control(random) for _ in range(CONTROLS)]


def _control(random: Random) -> bytes:
    told: dict[str, Any] = {
        "method": random.choice(COMMANDS),
        "arguments": {},
        "destination": None,
        "ticket": "t",
        "reply_to": None,
    }
    return spelling.encoded(random, spelling.spelled(random, damaged(random, told, random.randrange(2))))


def all_is_well(service: Service, fed: Watched, given: Mapping[str, object]) -> None:
    """What was given is in a row, and a healthy event behind it all is done, by those that were there before."""
    with trying(given):
        service.send(event(behind := f"behind {next(iter(given))}"))
        eventually(lambda: service.cached(behind), within=120)
        fed.is_as_before(*BROKEN)
    all_kept(service, given)
    fed.is_as_before(*BROKEN)
    forget(service)


DEADLY: dict[str, dict[str, bytes]] = {
    "a time in milliseconds": {"sent": Wire(b"T" + struct.pack(">Q", 1_800_000_000_000))},
    "no time at all": {"sent": Wire(b"T" + struct.pack(">Q", 2**64 - 1))},
    "arrays a thousand deep": {"deep": Wire(nested(2000))},
    "a content type that is no text": {},
}


def test_what_once_killed_every_worker(rabbit_service: Service) -> None:
    """Properties that py-amqp cannot read: each message is kept with them, and the worker lives on."""
    service, publisher = rabbit_service, Publisher(rabbit_service.broker_url)
    with worker(service) as fed:
        for name, more in DEADLY.items():
            told = {} if more else {"content_type": b"\xff"}
            message = Raw(body(event(name)), properties(Random(0), headers(name) | more, 0, **told))
            assert publisher.publish(message, "", "redirects")
        elsewhere = properties(Random(0), headers("r") | {"CC": ["redirects"]}, 0)
        assert publisher.publish(Raw(body(event("a routing key")), elsewhere), "", b"\xff")
        publisher.close()
        eventually(lambda: service.cached("a routing key"), within=60)
        rows = eventually(lambda: found if len(found := service.rejected()) == len(DEADLY) else [])
        fed.is_as_before(*BROKEN)
    assert all(row["error"].startswith("its properties cannot be read") for row in rows)
    assert {json.loads(json.loads(row["body"])["body"])[0][0]["event_id"] for row in rows} == set(DEADLY)
