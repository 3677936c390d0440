"""`doctor`: is everything that the service stands on there, and set as it must be?"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from config.settings import Settings
from worker.db import migrations
from worker.db.session import engine
from worker.redis_client import client

# Seconds that a due side effect may wait before somebody should ask whether worker and beat run.
LATE = 30.0


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether all is well, and what to know or do."""

    name: str
    ok: bool
    says: str


def examine(settings: Settings) -> list[Finding]:
    """Every check, in order; one that cannot be made is a bad finding, never an exception."""
    checks: list[tuple[str, Callable[[Settings], Iterator[Finding]]]] = [
        ("database", _database),
        ("broker", _broker),
        ("cache", _cache),
    ]
    return [finding for name, check in checks for finding in _safely(name, check, settings)]


def _safely(name: str, check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check(settings))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are still to be made
        says = str(getattr(error, "orig", error)).strip() or type(error).__name__
        findings.append(Finding(name, False, says.splitlines()[0]))
    return findings


def _database(_settings: Settings) -> Iterator[Finding]:
    database = engine()
    with database.connect() as connection:
        version = connection.scalar(text("SHOW server_version"))
        yield Finding("database", True, f"PostgreSQL {version}")
        durable = connection.scalar(text("SHOW synchronous_commit"))
        yield Finding("synchronous_commit", durable != "off", f"{durable}; off would lose redirects in a crash")
        skew = connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float8")) - time.time()
        yield Finding("clock", abs(skew) < 5, f"the database is {skew:+.1f} s from this machine")
    current, head = migrations.current(database), migrations.head()
    says = f"{current}" if current == head else f"{current}, should be {head}: run `redirect-worker migrate`"
    yield Finding("schema", current == head, says)
    if current is not None:
        yield from _side_effects(database)


def _side_effects(database: Engine) -> Iterator[Finding]:
    with database.connect() as connection:
        late, dead, rejected = connection.execute(
            text("""
            SELECT coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE state = 'waiting')), 0)::float8,
                count(*) FILTER (WHERE state = 'dead'), (SELECT count(*) FROM rejected_events) FROM side_effects
            """)
        ).one()
    says = f"{max(late, 0):.0f} s late; if over {LATE:.0f}, do worker and beat run?"
    yield Finding("oldest due side effect", late < LATE, says)
    yield Finding("dead side effects", dead == 0, f"{dead}, each needs a person")
    yield Finding("rejected events", True, f"{rejected} kept")


def _broker(settings: Settings) -> Iterator[Finding]:
    from worker.app import app

    url = settings.url("broker_url")
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        yield Finding("broker", True, make_url(url).render_as_string(hide_password=True))
        if not url.startswith("redis"):
            from worker import doctor_rabbitmq

            answers = doctor_rabbitmq.examine(connection, app.conf.task_queues, settings.rabbitmq_api)
            yield from (Finding(*answer) for answer in answers)
    if url.startswith("redis"):
        with Redis.from_url(url, socket_timeout=2) as broker:
            policy = broker.config_get("maxmemory-policy")["maxmemory-policy"]
            kept = broker.config_get("appendonly")["appendonly"]
        yield Finding("broker eviction", policy == "noeviction", f"maxmemory-policy {policy}; another would drop tasks")
        yield Finding("broker durability", kept == "yes", f"appendonly {kept}; no would lose queued tasks in a restart")


def _cache(settings: Settings) -> Iterator[Finding]:
    client().ping()
    yield Finding("cache", True, "answers")
    apart = settings.url("redis_url") != settings.url("broker_url")
    says = "yes" if apart else "no: a full or flushed cache would take the queue along"
    yield Finding("broker and cache apart", apart, says)
