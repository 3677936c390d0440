"""The Celery application: `celery -A worker.app worker|beat|flower`."""

from pkgutil import iter_modules
from typing import Any

import structlog
from celery import Celery, signals
from kombu.transport import TRANSPORT_ALIASES

from config import logging, sentry, tracing
from config.celery import options
from config.settings import settings
from worker import json_queue, tasks
from worker.guard.compression import LARGEST, bound_decompression
from worker.hosts import host
from worker.policy import POLICIES
from worker.tasks.doorbell import queue_of

# For redis:// URLs, kombu's transport behind a guard: what is no message at all (a raw LPUSH by a foreign producer) is
# parked, not a lost connection. By its alias, so that Flower and the logs still see a redis:// URL.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "worker.guard.redis_transport:Transport"))
# For amqp:// URLs, one whose publishes end and whose prefetch quorum queues can have.
TRANSPORT_ALIASES.update(dict.fromkeys(("amqp", "pyamqp"), "worker.guard.amqp_transport:Transport"))
TRANSPORT_ALIASES["amqps"] = "worker.guard.amqp_transport:SSLTransport"

# Whoever reads messages: workers, and Flower too, which anybody's event would have unpack gigabytes.
bound_decompression(LARGEST)

# A fourth kind of side effect is a file in tasks/ and a line of policy: its queue and its import follow.
QUEUES = ("redirects", *map(queue_of, POLICIES), "maintenance")
TASKS = tuple(f"{tasks.__name__}.{module.name}" for module in iter_modules(tasks.__path__))

app = Celery("redirect-worker", events="worker.guard.events:Events")
# Read on first use, so that importing this module needs no environment and opens nothing.
app.add_defaults(lambda: options(settings(), QUEUES, TASKS))
app.set_default()


@signals.setup_logging.connect
def _own_logging(**_: Any) -> None:
    logging.configure(settings().log_format, host().marks)


@signals.worker_init.connect
def _worker_starts(**_: Any) -> None:
    sentry.start("worker")
    tracing.start("worker")
    from worker.guard import clock  # noqa: F401 - only a worker answers, and only there this import costs nothing


@signals.beat_init.connect
def _beat_starts(**_: Any) -> None:
    sentry.start("beat")


@signals.task_prerun.connect
def _bind(task_id: str, task: Any, **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


def declare_queues(app: Celery) -> list[str]:
    """Declare every queue: what is published before its queue exists is lost on either broker. Returns their names."""
    with app.connection_for_write() as connection:
        for queue in app.conf.task_queues:
            queue.bind(connection.default_channel).declare()
        return [*(queue.name for queue in app.conf.task_queues), *json_queue.declare(connection)]
