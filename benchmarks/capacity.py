"""What some rate of redirects takes, and up to which rate one of each part is enough. A calculation: no I/O.

From what `make bench` has measured (docs/performance.json), what the code sets, and benchmarks/assumptions.py.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import assumptions as assumed
from benchmarks.figures import Figures
from config.settings import Settings

# The way in that is calculated: the JSON queue on RabbitMQ with one event per message, which is the dearer one.
WAY, ARRAYS = "ours-json-rabbitmq", "ours-json-100-rabbitmq"
EVENTS_PER_ARRAY = 100
DAY = 86_400
HISTORY_DAYS: int = Settings.model_fields["history_days"].default
SOCKETS: int = Settings.model_fields["sockets"].default
# The worker whose memory is measured: its main process and two of the pool.
MEASURED_PROCESSES = 3


@dataclass(frozen=True)
class Measured:
    """What one redirect costs, by performance.json: milliseconds of CPU, statements; and MiB of one worker process."""

    intake_ms: float
    worker_ms: float
    server_ms: float
    statements: float
    process_mib: float

    @property
    def total_ms(self) -> float:
        return self.intake_ms + self.worker_ms + self.server_ms

    @classmethod
    def of(cls, results: dict[str, Any]) -> "Measured":
        figures = Figures(results)
        cpu, in_arrays = median(figures, WAY, "cpu_ms"), median(figures, ARRAYS, "cpu_ms")
        # The worker does the same for both; what one message for each event costs more is the intake's.
        intake = max(0.0, cpu - in_arrays) + assumed.INTAKE_EVENT_MS
        return cls(
            intake,
            cpu - intake,
            median(figures, WAY, "server_cpu_ms"),
            median(figures, WAY, "statements"),
            max(point["worker_mib"] for point in results["memory"]["points"]) / MEASURED_PROCESSES,
        )


def median(figures: Figures, name: str, figure: str) -> float:
    """Of the alternations. Raises LookupError when it was not measured."""
    found = figures.of(name, figure)
    if found is None:
        raise LookupError(f"{name} was not measured")
    return found.median


@dataclass(frozen=True)
class Limit:
    """Up to how many redirects per second one of something carries, and what helps beyond.

    `of`: whether it is a process, a primary, the history, or something of which an installation has one.
    `in_code`: more and larger machines do not help, the code as it is has one of it.
    """

    what: str
    rate: float
    beyond: str
    of: Literal["process", "primary", "history", "installation"]
    in_code: bool = False


def limits(measured: Measured) -> list[Limit]:
    """All of them, the first to come first."""
    found = [*_of_history(), *_of_processes(measured), *_of_an_installation(measured), *_of_a_primary(measured)]
    return sorted(found, key=lambda limit: limit.rate)


def _of_history() -> list[Limit]:
    seconds = HISTORY_DAYS * DAY
    disk = assumed.PRIMARY_BYTES / (assumed.ROW_BYTES * seconds)
    table = assumed.TABLE_BYTES / (assumed.HEAP_BYTES * seconds)
    smaller = "fewer `REDIRECT_HISTORY_DAYS`, a larger disk, more primaries"
    return [
        Limit(f"disk of one primary, {HISTORY_DAYS} days", disk, smaller, "history"),
        Limit(f"one table, {HISTORY_DAYS} days", table, "partitions", "history", True),
    ]


def _of_processes(measured: Measured) -> list[Limit]:
    more = "more processes, more machines"
    return [
        Limit("one core of workers", per_core(measured.worker_ms), more, "process"),
        Limit("one core of intake", per_core(measured.intake_ms), f"{more}; arrays of events", "process"),
    ]


def _of_an_installation(measured: Measured) -> list[Limit]:
    """Each with what would lift it; another installation always does."""
    read, held = per_core(assumed.FRAME_MS), per_core(assumed.WRITER_SHARE * measured.total_ms)
    by_owner = "a subscription by owner"
    return [
        Limit("frames that one gateway reads", read, by_owner, "installation", True),
        Limit("frames that Redis hands to all gateways", _fan_out(), by_owner, "installation", True),
        Limit("one writer of a kind", held, "a kind in parts", "installation", True),
        Limit("`workflow.redirects`, 1 event", float(assumed.QUEUE_RATE), "arrays of events", "installation", True),
    ]


def _of_a_primary(measured: Measured) -> list[Limit]:
    """All CPU time of the servers is counted as PostgreSQL's: it has most of it."""
    busy = assumed.PRIMARY_CORES * per_core(measured.server_ms)
    return [
        Limit("WAL of one primary", assumed.WAL_RATE / assumed.WAL_BYTES, "more primaries", "primary"),
        Limit("commits of one primary", assumed.COMMIT_RATE / measured.statements, "more primaries", "primary"),
        Limit("CPU of one primary", busy, "more primaries", "primary"),
    ]


def per_core(milliseconds: float) -> float:
    """How many per second a core does that may be busy for LOAD of the time."""
    return assumed.LOAD * 1000 / milliseconds


def _fan_out() -> float:
    """The rate at which rate * (commands + gateways) is all that one Redis does; sockets say how many gateways."""
    own, gateways = assumed.REDIS_COMMANDS, assumed.SOCKETS_PER_RATE / SOCKETS
    return (math.sqrt(own**2 + 4 * gateways * assumed.REDIS_RATE) - own) / (2 * gateways)


@dataclass(frozen=True)
class Step:
    """What one rate takes. Bytes are bytes, network is bits per second."""

    rate: float
    worker_cores: float
    worker_mib: float
    intake_cores: float
    installations: int
    primaries: int
    primaries_for_history: int
    queues: int
    queues_of_arrays: int
    nodes: int
    redis_for_commands: int
    redis_for_memory: int
    sockets: int
    gateways_for_sockets: int
    gateways_by_owner: int
    network: float
    frames_today: float
    history_per_day: float
    history: float
    wal_per_day: float


def step(measured: Measured, rate: float) -> Step:
    """`gateways_by_owner` and the two numbers of Redis are for a gateway that subscribes to its own owners only."""
    worker_cores = rate / per_core(measured.worker_ms)
    sockets = math.ceil(rate * assumed.SOCKETS_PER_RATE)
    gateways = math.ceil(sockets / SOCKETS)
    frames = rate * assumed.GATEWAYS_PER_OWNER
    queues = math.ceil(rate / assumed.QUEUE_RATE)
    per_day = rate * DAY * assumed.ROW_BYTES
    keys = rate * DAY / assumed.REDIRECTS_PER_CONVERSATION
    sent = assumed.EVENT_BYTES * assumed.EVENT_COPIES + assumed.SQL_BYTES + assumed.WAL_BYTES + assumed.FRAME_BYTES
    return Step(
        rate,
        worker_cores,
        math.ceil(worker_cores) * measured.process_mib,
        rate / per_core(measured.intake_ms),
        math.ceil(rate / first(measured, "installation").rate),
        math.ceil(rate / first(measured, "primary").rate),
        math.ceil(per_day * HISTORY_DAYS / assumed.PRIMARY_BYTES),
        queues,
        math.ceil(rate / EVENTS_PER_ARRAY / assumed.QUEUE_RATE),
        max(3, math.ceil(queues / assumed.QUEUES_PER_NODE)),
        math.ceil((rate * assumed.REDIS_COMMANDS + frames) / assumed.REDIS_RATE),
        math.ceil(keys * assumed.KEY_BYTES / assumed.SHARD_BYTES),
        sockets,
        gateways,
        max(gateways, math.ceil(frames / per_core(assumed.FRAME_MS))),
        8 * rate * sent,
        8 * rate * gateways * assumed.FRAME_BYTES,
        per_day,
        per_day * HISTORY_DAYS,
        rate * DAY * assumed.WAL_BYTES,
    )


def first(measured: Measured, of: str) -> Limit:
    """The limit of this sort that comes first."""
    return next(limit for limit in limits(measured) if limit.of == of)


def met(measured: Measured, rate: float, before: float) -> list[Limit]:
    """The limits that lie between two rates, the first to come first."""
    return [limit for limit in limits(measured) if before < limit.rate <= rate]
