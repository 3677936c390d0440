"""The systems of a run, in the order in which they take turns, and their backlogs."""

from benchmarks.floor import Floor
from benchmarks.ours import Ours
from benchmarks.peers.systems import Dbos, Dramatiq, PlainCelery, Procrastinate
from benchmarks.systems import System

BACKLOG = 20_000
# Fewer for what does some hundred redirects per second, and for what does less than a hundred, so that a run takes 10
# to 30 s: what is steady for that long shows nothing new in minutes, and everything must fit into 45 minutes.
SLOW, SLOWEST = 2_000, 500
ARRAY = 100

SYSTEMS: tuple[System, ...] = (
    PlainCelery(broker="rabbitmq", backlog=SLOW, expected=400, latency=True),
    Ours("json", "rabbitmq", 1, BACKLOG, 6_000),
    Ours("task", "rabbitmq", 1, BACKLOG, 2_000),
    Ours("json", "rabbitmq", ARRAY, BACKLOG, 15_000),
    Ours("task", "rabbitmq", ARRAY, BACKLOG, 15_000),
    Floor(backlog=BACKLOG, expected=25_000),
    PlainCelery(broker="redis", backlog=SLOWEST, expected=120, latency=True),
    Ours("json", "redis", 1, BACKLOG, 1_000),
    Ours("task", "redis", 1, SLOW, 430),
    Ours("json", "redis", ARRAY, BACKLOG, 15_000),
    Ours("task", "redis", ARRAY, BACKLOG, 15_000),
    Dramatiq(backlog=SLOW, expected=540),
    Procrastinate(backlog=SLOWEST, expected=49),
    Dbos(backlog=SLOWEST, expected=42),
)
