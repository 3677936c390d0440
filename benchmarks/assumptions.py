"""What benchmarks/scale.py assumes: each number with its unit, and why it is that number and not another."""

from typing import Self


class Assumed(float):
    """A number that `make bench` does not measure."""

    unit: str
    why: str

    def __new__(cls, value: float, unit: str, why: str) -> Self:
        made = super().__new__(cls, value)
        made.unit, made.why = unit, why
        return made


LOAD = Assumed(0.6, "share", "of a core that may be busy on average; the rest is for bursts and for catching up")
INTAKE_EVENT_MS = Assumed(
    0.015,
    "ms of CPU",
    "of the intake for an event within an array: 0.010 to unpack it, seen once in a loop, and its part of a publish",
)
WRITER_SHARE = Assumed(
    0.25,
    "share",
    "of all CPU time of a redirect, ours and the servers', for which its cache, frame or record holds the lock of its"
    " kind: a redirect and three kinds are four parts. Not measured apart",
)
FRAME_MS = Assumed(
    0.13,
    "ms of CPU",
    "of a gateway process to read, check and fold one frame that none of its sockets wants: seen once, in a loop of"
    " 10,000 on the machine of performance.md",
)
SOCKETS_PER_RATE = Assumed(
    10, "sockets", "open for each redirect per second: an agent whose owner sees one update every ten seconds"
)
GATEWAYS_PER_OWNER = Assumed(
    2, "processes", "that have a socket of the same owner, once a gateway subscribes to the owners that it shows"
)
REDIRECTS_PER_CONVERSATION = Assumed(
    3, "redirects", "of one conversation in the day that its cache key lives: to a team, to another, back to the AI"
)

EVENT_BYTES = Assumed(400, "bytes", "an event as JSON: those of benchmarks/events.py have 357")
FRAME_BYTES = Assumed(300, "bytes", "a live frame (241 without its channel's name and the protocol)")
EVENT_COPIES = Assumed(
    8,
    "copies",
    "of an event on the network: to RabbitMQ, to the intake, back, to the worker, and each of two quorum queues to two"
    " followers",
)
SQL_BYTES = Assumed(
    1500, "bytes", "to and from PostgreSQL for one redirect: state, ledger row, claims of three kinds, record"
)

HEAP_BYTES = Assumed(320, "bytes", "a row of `redirects` without its indexes: its columns added up")
ROW_BYTES = Assumed(500, "bytes", "a row of `redirects` with its three indexes and the free space in their pages")
WAL_BYTES = Assumed(
    4000,
    "bytes",
    "of WAL for one redirect: about 1,500 of records (a row with three indexes, a state with three, the record, a part"
    " of the side effects), and images of pages after each checkpoint. With short checkpoints and many conversations"
    " the images may be ten times that: measure it, `pg_stat_wal` has it",
)
WAL_RATE = Assumed(
    100e6, "bytes/s", "of WAL that one primary may write all day, because one process of each standby must replay it"
)
# https://www.cybertec-postgresql.com/en/end-of-the-road-for-postgresql-streaming-replication/: one process replays.
COMMIT_RATE = Assumed(5000, "commits/s", "of one primary with a synchronous standby")
PRIMARY_CORES = Assumed(32, "cores", "of one primary")
PRIMARY_BYTES = Assumed(16e12, "bytes", "of disk of one primary that history may fill")
# https://www.postgresql.org/docs/current/limits.html: relation size 32 TB with pages of 8 kB.
TABLE_BYTES = Assumed(2.0**45, "bytes", "PostgreSQL's limit for one table that is not partitioned (published)")

# https://www.rabbitmq.com/blog/2022/05/16/rabbitmq-3.10-performance-improvements, scenario 4: ten million messages
# published in about 3 minutes, and then consumed in about 3, on 8 CPUs.
QUEUE_RATE = Assumed(
    20_000,
    "messages/s",
    "through one quorum queue, in and out at once. RabbitMQ's own test of 3.10 had about 55,000 in, and then as many"
    " out (published)",
)
QUEUES_PER_NODE = Assumed(2, "queues", "led by one RabbitMQ node, which also follows four others")

# https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/benchmarks/: with 16 commands in a
# pipeline 403,063 SET or 508,388 GET per second.
REDIS_RATE = Assumed(
    200_000,
    "commands/s",
    "of one Redis. Its own benchmark has 403,000 SET in pipelines (published); here a script decodes JSON besides",
)
REDIS_COMMANDS = Assumed(3, "commands", "of one redirect: GET and SET of its key, PUBLISH of its frame")
KEY_BYTES = Assumed(
    250, "bytes", "of Redis' memory for one cache key: name, value, expiry, and what Redis keeps for each"
)
SHARD_BYTES = Assumed(32e9, "bytes", "of memory of one Redis")

ALL = {name: value for name, value in globals().items() if isinstance(value, Assumed)}
