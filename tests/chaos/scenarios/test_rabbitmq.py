"""RabbitMQ: a cluster that loses nodes, an alarm, and a message that is delivered too often."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kombu import Connection

from tests.chaos.harness.servers import Rabbit, frozen
from tests.chaos.harness.ways import metrics, send
from tests.chaos.harness.workload import PUBLISH, Sent, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on, scenario
from tests.eventually import eventually
from tests.rabbitmq_cluster import Cluster, together
from worker import json_queue
from worker.client import BrokerUnavailable, RedirectClient
from worker.queues import waiting

pytestmark = pytest.mark.timeout(300, func_only=True)
DEAD = json_queue.DEAD_LETTERS.name
ALERTS = Path(__file__).parents[3] / "ops/prometheus/alerts.yaml"


def goes_on(sent: Sent, number: int = 30, within: float = 60) -> bool:
    """So many more are confirmed."""
    seen = len(sent.acknowledged)
    return eventually(lambda: len(sent.acknowledged) > seen + number, within)


@scenario(21, "of three RabbitMQ nodes the leader killed, the majority gone, the leader frozen")
@on("cluster")
def test_confirms_time_out_and_nothing_is_lost(world: World, judge: Judge) -> None:
    """Two nodes of three go on by themselves, one alone confirms nothing; each publish ends, also at a frozen node."""
    assert isinstance(world.broker, Rabbit) and isinstance(world.broker.node, Cluster)
    cluster, vhost = world.broker.node, world.broker.vhost
    world.start_all()
    with sending(world.producer, world.workload, every=0.05) as sent:
        goes_on(sent)
        leader = cluster.leader(vhost, "redirects")
        follower, _ = cluster.others(leader)
        world.fault("leader killed", leader.kill)
        goes_on(sent)
        world.fault("majority gone", follower.stop)
        confirms_time_out(sent)
        together([leader.start, follower.start])
        goes_on(sent)
        with world.fault("leader frozen", lambda: frozen(cluster.leader(vhost, "redirects"))):
            ended = len(sent.acknowledged) + 10 * len(sent.unknown)  # confirmed, if the producer is elsewhere
            eventually(lambda: len(sent.acknowledged) + 10 * len(sent.unknown) > ended + 30)
        goes_on(sent)
    judge(world)
    assert len(world.running("worker")) == 1


def confirms_time_out(sent: Sent) -> None:
    """Three publishes one after the other, of which none is confirmed."""
    unknown = len(sent.unknown)
    eventually(lambda: len(sent.unknown) > unknown)  # what was on its way may still be confirmed
    confirmed, unknown = len(sent.acknowledged), len(sent.unknown)
    eventually(lambda: len(sent.unknown) >= unknown + 3, within=30)
    assert len(sent.acknowledged) == confirmed


@contextmanager
def memory_alarm(world: World) -> Iterator[None]:
    assert isinstance(world.broker, Rabbit)
    world.broker.node.ctl("set_vm_memory_high_watermark", "absolute", "1")
    try:
        yield
    finally:
        world.broker.node.ctl("set_vm_memory_high_watermark", "0.4")


@scenario(22, "a memory alarm")
@on("rabbitmq")
def test_each_publish_ends(world: World, judge: Judge) -> None:
    """The producers' and the client's raise in time, HTTP goes on; what waits in the queue is applied meanwhile."""
    world.start_all()
    world.start("intake")
    with sending(world.producer, world.workload, every=0.05) as sent:
        goes_on(sent)
        world.faults["memory alarm"] += 1
        with memory_alarm(world):
            confirms_time_out(sent)
            eventually(lambda: _in_the_ledger(world) >= set(sent.acknowledged))
            client_gives_up(world)
            send(world, "HTTP", *world.workload.events(10))
        goes_on(sent)
    judge(world)


def _in_the_ledger(world: World) -> set[str]:
    return {row["event_id"] for row in world.direct.redirects()}


def client_gives_up(world: World) -> None:
    """Three calls, each within its timeout; the rest is for a busy machine."""
    events = world.workload.events(3)
    with RedirectClient(world.direct.broker_url, timeout=PUBLISH) as client:
        for event in events:
            world.producer.sent.events[event["event_id"]] = event
            world.producer.sent.unknown.append(event["event_id"])
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                client.redirect_many([event])
            assert time.monotonic() - began < PUBLISH + 5


@scenario(22, "a full queue that refuses")
@on("rabbitmq")
def test_what_is_refused_is_tried_again(world: World, judge: Judge) -> None:
    """No worker runs: of what every other way in has acknowledged, nothing fits until there is room."""
    world.start_all()
    intake = world.start("intake")
    with sending(world.producer, world.workload, every=0.05) as sent:
        goes_on(sent)
    (worker,) = world.running("worker")
    worker.popen.terminate()
    worker.popen.wait(30)
    with policy(world, {"max-length": 1, "overflow": "reject-publish"}):
        eventually(lambda: not world.producer.send(world.workload.events(1)))
        for way in ("JSON queue", "HTTP", "outbox"):
            send(world, way, *world.workload.events(10))
            world.faults["refused"] += 10
        eventually(lambda: intake.says("cannot be passed on"))
    world.start("worker")
    judge(world)


@scenario(23, "delivery limit exceeded")
@on("quorum")
def test_the_message_is_a_dead_letter_that_can_be_sent_again(world: World, judge: Judge) -> None:
    """Each worker that takes it dies: RabbitMQ gives up, keeps it whole, and the alert sees it; then it is applied."""
    world.watch()
    with Connection(world.direct.broker_url) as connection:
        json_queue.declare(connection)
    with policy(world, {"dead-letter-exchange": json_queue.DEAD_LETTERS.exchange.name, "delivery-limit": 1}):
        dead_letter(world, judge)


def dead_letter(world: World, judge: Judge) -> None:
    deadly = world.workload.event()
    assert world.producer.send([deadly])
    for _ in range(2):
        doomed = world.start("worker", REDIRECT_FAILPOINT="before_commit")
        world.fault("worker killed", lambda: eventually(lambda: not doomed.running))  # noqa: B023 - called at once
    eventually(lambda: alerted(world) == 1, within=30)

    world.start("worker")
    world.start("beat")
    with sending(world.producer, world.workload, every=0.05) as sent:
        goes_on(sent)
    assert deadly["event_id"] not in _in_the_ledger(world)
    assert sent_again(world) == [deadly]
    judge(world)
    eventually(lambda: alerted(world) == 0, within=30)


@contextmanager
def policy(world: World, definition: Mapping[str, object]) -> Iterator[None]:
    """Of the queue `redirects`, until the block ends."""
    assert isinstance(world.broker, Rabbit)
    vhost, ctl = world.broker.vhost, world.broker.node.ctl
    ctl("set_policy", "-p", vhost, "of-a-test", "^redirects$", json.dumps(definition), "--apply-to", "queues")
    try:
        yield
    finally:
        ctl("clear_policy", "-p", vhost, "of-a-test")


def alerted(world: World) -> float:
    """What RedirectDeadLetters compares with 0."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    (rule,) = (rule["expr"] for rule in rules if rule["alert"] == "RedirectDeadLetters")
    series = f'redirect_worker_queue_messages{{queue="{DEAD}"}}'
    assert rule == f"max({series}) > 0"
    (line,) = (line for line in metrics(world).splitlines() if line.startswith(series))
    return float(line.removeprefix(series))


def sent_again(world: World) -> list[Any]:
    """Move the dead letters back to the queue that each names, as the page tells an operator; their events."""
    found: list[Any] = []
    with Connection(world.direct.broker_url, transport_options={"confirm_publish": True}) as connection:
        channel: Any = connection.default_channel
        while (message := channel.basic_get(DEAD)) is not None:
            (death,) = message.properties["application_headers"]["x-death"]
            assert death["reason"] == "delivery_limit"
            channel.basic_publish_confirm(message, routing_key=death["queue"])
            channel.basic_ack(message.delivery_tag)
            found += json.loads(message.body)[0]
        assert waiting(connection, DEAD) == 0
    return found
