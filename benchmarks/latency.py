"""Latency at quiet times: publish -> the frame received by a subscriber of the live channel."""

import json
import threading
import time
from collections.abc import Sequence

from redis import Redis

from benchmarks.checks import CheckFailed
from benchmarks.events import Event
from benchmarks.systems import Stage, System

RATE = 20.0
PATIENCE = 30.0


def measure(system: System, stage: Stage, events: Sequence[Event]) -> list[float]:
    """Milliseconds of each event, published one at a time at RATE per second. Each is the first of its conversation."""
    received: dict[str, float] = {}
    sent: dict[str, float] = {}
    with Redis.from_url(stage.services.urls["cache"]) as client, client.pubsub() as live:
        live.psubscribe("conversations.*")
        live.get_message(timeout=5)
        over = threading.Event()
        listener = threading.Thread(target=_listen, args=(live, received, over), daemon=True)
        listener.start()
        try:
            _publish(system, stage, events, sent)
            deadline = time.monotonic() + PATIENCE
            while sent.keys() - received.keys():
                if time.monotonic() > deadline:
                    raise CheckFailed(f"{len(sent.keys() - received.keys())} frames of {len(sent)} never came")
                time.sleep(0.05)
        finally:
            over.set()
            listener.join()
    return [1000 * (received[event_id] - moment) for event_id, moment in sent.items()]


def _publish(system: System, stage: Stage, events: Sequence[Event], sent: dict[str, float]) -> None:
    with system.publisher(stage) as publish:
        begin = time.perf_counter()
        for number, event in enumerate(events):
            time.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
            sent[event["event_id"]] = time.perf_counter()
            publish([event])


def _listen(live: object, received: dict[str, float], over: threading.Event) -> None:
    while not over.is_set():
        message = live.get_message(ignore_subscribe_messages=True, timeout=0.1)  # type: ignore[attr-defined]
        if message:
            received.setdefault(json.loads(message["data"])["event_id"], time.perf_counter())
