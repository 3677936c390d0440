"""Celery's options, as data, each with its reason."""

from collections.abc import Sequence
from ssl import CERT_REQUIRED
from typing import Any

from kombu import Exchange, Queue
from kombu.utils.url import parse_url

from config.settings import Settings

# Two hours: a sweep that waited longer says nothing new, and workers that were away for days need not run them all.
# Not one interval: `expires` is judged by the worker's clock, and a clock that is minutes off would silently drop
# every sweep, the very thing that heals the rest. (docs/decisions/0004-sweeps-expire-late.md)
SWEEP_EXPIRES = 7200
PRUNE_INTERVAL = 3600.0
# Seconds for one address of the broker's.
CONNECT_WITHIN = 2


class TypedQueue(Queue):
    """A queue that tells its type to RabbitMQ, and not to Celery.

    Celery would add 56 queues and exchanges for delayed delivery, which queues with a direct exchange cannot use, and
    say so at every retry.
    """

    attrs = (*Queue.attrs, ("queue_type", None))
    queue_type: str | None = None

    def queue_declare(self, nowait: bool = False, passive: bool = False, channel: Any = None) -> Any:
        arguments = {"x-queue-type": self.queue_type} if self.queue_type else None
        typed = Queue(self.name, queue_arguments=arguments)
        return typed.queue_declare(nowait, passive, channel or self.channel)


def bare_queue(name: str, queue_type: str | None = None) -> Queue:
    """As a Celery producer with a default configuration declares it: RabbitMQ refuses any difference (406)."""
    return TypedQueue(name, Exchange(name, type="direct"), routing_key=name, queue_type=queue_type)


def options(settings: Settings, queues: Sequence[str], imports: Sequence[str]) -> dict[str, Any]:
    """All of Celery's options; `imports` are the modules with tasks."""
    broker = settings.url("broker_url")
    return {
        "broker_url": broker,
        "imports": imports,
        **_delivery(settings, queues),
        **_limits(settings),
        **_broker(settings, broker),
        **_beat(settings),
        **_watching(),
    }


def _delivery(settings: Settings, queues: Sequence[str]) -> dict[str, Any]:
    # Only `redirects` has strangers for producers, who must declare it alike.
    types = {"redirects": settings.queue_type}
    return {
        "task_queues": [bare_queue(name, types.get(name)) for name in queues],
        "task_default_queue": "maintenance",
        # A misspelt queue is an error at the producer here, not a message that nobody ever reads.
        "task_create_missing_queues": False,
        # Acknowledged after the work: a killed worker's messages come back.
        "task_acks_late": True,
        # 5.7: a killed child's task is published again, 1 + max_retries runs at most. `acks_late` alone acknowledges
        # and loses it; `task_reject_on_worker_lost` runs a killer for ever (celery#9082).
        "task_retry_on_worker_lost": True,
        "task_annotations": {"*": {"max_retries": 3, "default_retry_delay": 1}},
        # JSON only: unpickling a message is running it.
        "task_serializer": "json",
        "accept_content": ["json"],
        # No result backend: with one, Redis being down at the start fails the task unrun. The ledger is the result.
        "task_ignore_result": True,
        "result_backend": None,
    }


def _limits(settings: Settings) -> dict[str, Any]:
    return {
        "worker_concurrency": settings.concurrency,
        # What waits here is what one run takes together. A slow run sits on no other: whatever process is free next
        # takes all that wait.
        "worker_prefetch_multiplier": 100,
        "task_time_limit": settings.task_time_limit,
        "task_soft_time_limit": settings.task_soft_time_limit,
        # Seconds until a process that was killed counts as lost (default: 10). So long its redirects wait, and nobody
        # has its place. An answer that it has left is read within milliseconds; one too late costs a second run, which
        # changes nothing.
        "worker_lost_wait": 2,
        # Seconds until a process has started, or is killed and started again (default: 4). On a machine that has too
        # much to do none would start in time, and those that try would be what it does.
        "worker_proc_alive_timeout": 30,
        # Memory that a library leaks is given back now and then.
        "worker_max_tasks_per_child": 5000,
        # On SIGQUIT (or SIGTERM with REMAP_SIGTERM=SIGQUIT, as containers want it) running tasks get this long.
        "worker_soft_shutdown_timeout": 15,
        "worker_enable_soft_shutdown_on_idle": True,
        # Late acknowledgement and idempotent tasks: what runs may end, its second delivery changes nothing.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # In front of Celery's own: a message of the wrong shape is parked, not a crash loop.
        "worker_consumer": "worker.guard.consumer:GuardedConsumer",
        "worker_pool": "worker.guard.pool:Pool",
    }


def _broker(settings: Settings, url: str) -> dict[str, Any]:
    common = {
        # Seconds. A publish never hangs a task: what cannot be rung in two seconds is left to the sweep.
        "broker_connection_timeout": CONNECT_WITHIN,
        "broker_pool_acquire_timeout": 2,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2},
        # A worker outlives any outage of its broker.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # What a broker refuses ended the worker: RabbitMQ with a queue deleted under it or an acknowledgement that came
        # too late, a Redis that is a replica now. It connects again instead, as after a lost connection.
        "broker_channel_error_retry": True,
    }
    return common | tls(url) | (_redis(settings) if url.startswith("redis") else _rabbitmq(url))


def tls(url: str) -> dict[str, Any]:
    """What the URL says (worker/broker.py), for Flower too. kombu alone would take any certificate for rediss://."""
    first = url.partition(";")[0]
    if not first.startswith(("amqps:", "rediss:")):
        return {}
    return {"broker_use_ssl": {"ssl_cert_reqs": CERT_REQUIRED} | (parse_url(first).get("ssl") or {})}


def _redis(settings: Settings) -> dict[str, Any]:
    return {
        "broker_transport_options": {
            # After a worker's main process is killed its messages come back after this long...
            "visibility_timeout": settings.visibility_timeout,
            # ...and somebody looks for them this often (default: 10 s, and then only every tenth time).
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "unacked_restore_limit": 1000,
            # A frozen Redis hangs a publish for ever by default. Above BRPOP's own second.
            "socket_timeout": 2,
            "socket_connect_timeout": 1,
            "socket_keepalive": True,
            "health_check_interval": 5,
            # No global_keyprefix: producers with a default configuration would write past us.
        },
    }


def _rabbitmq(url: str) -> dict[str, Any]:
    addresses = url.count(";") + 1
    return {
        # Without confirms a message that RabbitMQ refuses is lost in silence. How long one is waited for has no option
        # in Celery: worker/guard/amqp_transport.py bounds it, and what is written to a socket that nobody reads.
        "broker_transport_options": {
            "confirm_publish": True,
            # For all addresses together. By default no longer than for one: with the first of them frozen, a publish
            # would not come to the second.
            "connect_retries_timeout": CONNECT_WITHIN * addresses,
        },
        # Celery would look for quorum queues among what it declares itself, and could not see those that a virtual host
        # makes by default. Here the prefetch is always each consumer's own: worker/guard/amqp_transport.py.
        "worker_detect_quorum_queues": False,
    }


def _beat(settings: Settings) -> dict[str, Any]:
    on_time = {"queue": "maintenance", "expires": SWEEP_EXPIRES}
    return {
        "beat_schedule": {
            "retry_side_effects": {
                "task": "retry_side_effects",
                "schedule": settings.sweep_interval,
                "options": on_time,
            },
            "reconcile_conversations": {
                "task": "reconcile_conversations",
                "schedule": settings.reconcile_interval,
                "options": on_time,
            },
            "prune_history": {"task": "prune_history", "schedule": PRUNE_INTERVAL, "options": on_time},
        },
        # Intervals only, so no file: schedule files corrupt (celery#4777, #8008).
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_max_loop_interval": max(1.0, settings.sweep_interval),
    }


def _watching() -> dict[str, Any]:
    return {
        # Flower sees every task from the moment a worker has it. Not from the moment it is sent: that costs a second
        # message for each, and tells nothing while the queues are read.
        "worker_send_task_events": True,
        # Our own logging: one story, in one format.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "timezone": "UTC",
    }
