"""The JSON queue against a real intake, with a worker behind it: raw bytes on either broker."""

import json
import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random

import pytest
from amqp.basic_message import Message

from tests.eventually import eventually
from tests.fuzz import spelling
from tests.fuzz.amqp_wire import Publisher, Raw, Wire, properties
from tests.fuzz.rounds import Rounds, numbered, trying
from tests.fuzz.watch import Watched, all_kept, forget, watched
from tests.integration.intakes import event, intake, put
from tests.poison_fuzz import damaged, torn
from tests.service import Service
from worker.json_queue import EXCHANGE, QUEUE, ROUTING_KEY

MESSAGES = 100
LOST = "the JSON queue is lost"


@contextmanager
def reading(service: Service) -> Iterator[Watched]:
    with intake(service) as process, service.worker("--concurrency", "1"):
        yield watched(process)


@pytest.mark.slow
def test_json_queue_on_redis(rounds: Rounds, service: Service) -> None:
    """Each item, in kombu's envelope or not, is applied or kept, and so is what comes behind it."""
    with reading(service) as fed:
        rounds.run(lambda random: on_redis(service, fed, random), most=3)


def on_redis(service: Service, fed: Watched, random: Random) -> int:
    items = {token: item(random, token) for token in numbered(random, MESSAGES)}
    service.broker.lpush(QUEUE.name, *items.values())
    all_is_well(service, fed, items)
    return len(items)


def item(random: Random, token: str) -> bytes:
    body = spelling.body(random, token)
    if random.random() < 0.5:
        return body
    return spelling.holding(token, lambda: enveloped(random, token, body))


def enveloped(random: Random, token: str, body: bytes) -> bytes:
    """In an envelope of kombu's, hurt. Its body is the token's only place there, unless the envelope is unreadable."""
    told = damaged(random, {"correlation_id": token, "delivery_tag": token, "delivery_info": {}}, random.randrange(2))
    envelope = damaged(random, {"headers": {"x": token} | spelling.attributes(random, token)}, random.choice((0, 0, 1)))
    envelope |= {"content-type": random.choice(spelling.TYPES), "body": b64encode(body).decode()}
    envelope |= {"properties": told | {"body_encoding": "base64"}}
    raw = spelling.encoded(random, json.dumps(envelope))
    return torn(random, raw) if random.random() < 0.1 else raw


@pytest.mark.slow
def test_json_queue_on_rabbitmq(rounds: Rounds, rabbit_service: Service) -> None:
    """Each body, below properties and headers that no client library writes, is applied or kept."""
    publisher = Publisher(rabbit_service.broker_url)
    with reading(rabbit_service) as fed:
        try:
            rounds.run(lambda random: on_rabbitmq(rabbit_service, publisher, fed, random), most=3)
        finally:
            publisher.close()


def on_rabbitmq(service: Service, publisher: Publisher, fed: Watched, random: Random) -> int:
    taken = {}
    for token in numbered(random, MESSAGES):
        body = spelling.body(random, token)
        told = {"content_type": random.choice(spelling.TYPES) or ""}
        raw = properties(random, spelling.attributes(random, token), random.choice((0, 0, 1, 2)), **told)
        if publisher.publish(Raw(body, raw), EXCHANGE.name, ROUTING_KEY):
            taken[token] = raw, body
    all_is_well(service, fed, taken)
    return MESSAGES


def all_is_well(service: Service, fed: Watched, given: Mapping[str, object]) -> None:
    with trying(given):
        put(service, event(behind := f"behind {next(iter(given))}"))
        eventually(lambda: service.state(behind[:64]), within=120)
        fed.is_as_before(LOST, "Traceback")
    all_kept(service, given)
    forget(service)


def test_what_once_kept_every_intake_from_reading(rabbit_service: Service) -> None:
    """A header with a time in milliseconds: the message is kept with it, and what comes behind it is passed on."""
    service, publisher = rabbit_service, Publisher(rabbit_service.broker_url)
    far = Wire(b"T" + struct.pack(">Q", 1_800_000_000_000))
    with intake(service) as process:
        fed = watched(process)
        raw = properties(Random(0), {"cloudEvents:time": far}, 0)
        assert publisher.publish(Raw(json.dumps(event("milliseconds")).encode(), raw), EXCHANGE.name, ROUTING_KEY)
        assert publisher.publish(Message(b"behind"), EXCHANGE.name, ROUTING_KEY)
        publisher.close()
        kept = eventually(lambda: found if len(found := service.rejected()) == 2 else [])
        fed.is_as_before(LOST)
    (row,) = [row for row in kept if row["error"].startswith("its properties cannot be read")]
    assert json.loads(json.loads(row["body"])["body"]) == event("milliseconds")
