"""The goals, and whether this run meets them."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.figures import Figures

PLAIN_RABBITMQ, PLAIN_REDIS = "plain-celery-rabbitmq", "plain-celery-redis"


@dataclass(frozen=True)
class Goal:
    """`measured` is met when it is at least (`most` false) or at most (`most` true) `limit`; None: not measured."""

    what: str
    measured: float | None
    limit: float
    unit: str = "x"
    most: bool = False

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.limit if self.most else self.measured >= self.limit

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.met]

    @property
    def asked(self) -> str:
        return f"at {'most' if self.most else 'least'} {self.limit:g}{self.unit}"

    @property
    def found(self) -> str:
        return "" if self.measured is None else f"{self.measured:.3g}{self.unit}"


def goals(figures: Figures) -> list[Goal]:
    return [*_throughput(figures), *_latency(figures), *_cost(figures), *_sockets(figures)]


def _throughput(figures: Figures) -> Iterator[Goal]:
    def times(what: str, name: str, other: str, limit: float) -> Goal:
        return Goal(what, figures.ratio(name, other), limit)

    yield times("RabbitMQ, JSON queue: plain Celery on RabbitMQ", "ours-json-rabbitmq", PLAIN_RABBITMQ, 18)
    yield times("arrays of 100, JSON queue: plain Celery on RabbitMQ", "ours-json-100-rabbitmq", PLAIN_RABBITMQ, 60)
    yield times("arrays of 100, Celery task: plain Celery on RabbitMQ", "ours-task-100-rabbitmq", PLAIN_RABBITMQ, 60)
    yield times("RabbitMQ, one Celery task per event: plain Celery", "ours-task-rabbitmq", PLAIN_RABBITMQ, 6)
    yield times("Redis, one Celery task per event: plain Celery", "ours-task-redis", PLAIN_REDIS, 3.5)
    yield times("Redis, JSON queue: plain Celery on Redis", "ours-json-redis", PLAIN_REDIS, 10)
    yield times("Redis, JSON queue: Dramatiq", "ours-json-redis", "dramatiq-redis", 2)
    for way, name in (("JSON queue", "ours-json-100-rabbitmq"), ("Celery task", "ours-task-100-rabbitmq")):
        share = figures.ratio(name, "floor")
        yield Goal(f"arrays of 100, {way}: share of the floor", share and 100 * share, 60, " %")


def _latency(figures: Figures) -> Iterator[Goal]:
    for broker, plain in (("RabbitMQ", PLAIN_RABBITMQ), ("Redis", PLAIN_REDIS)):
        task, queue = f"ours-task-{broker.lower()}", f"ours-json-{broker.lower()}"
        for share in (0.5, 0.99):
            ratio = figures.latency_ratio(task, plain, share)
            yield Goal(f"latency, {broker}, Celery task, p{100 * share:.0f}", ratio, 1, most=True)
        yield Goal(f"latency, {broker}, JSON queue, p50", figures.latency_ratio(queue, plain, 0.5), 1.25, most=True)


def _cost(figures: Figures) -> Iterator[Goal]:
    statements = figures.of("ours-json-rabbitmq", "statements")
    yield Goal(
        "statements per redirect, JSON queue on RabbitMQ", statements.median if statements else None, 0.1, "", most=True
    )
    yield Goal("sweep with nothing due, most / fewest conversations", figures.sweep_growth("sweep_ms"), 1.2, most=True)
    yield Goal("memory of a worker, 200,000 / 20,000 redirects", figures.memory_growth(), 1.1, most=True)


def _sockets(figures: Figures) -> Iterator[Goal]:
    for what, figure in (("publish to frame, p99", "p99"), ("memory per socket", "kib_per_socket")):
        yield Goal(f"sockets, {what}: Django Channels", figures.sockets_ratio(figure), 0.5, most=True)
