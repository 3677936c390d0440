"""`doctor`: is everything that the service stands on there, and set as it must be?"""

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from config.hiding import hide
from config.settings import Settings
from worker.db import migrations
from worker.db.session import engine
from worker.hosts import host
from worker.policy import POLICIES
from worker.redis_client import client

# Seconds that a due side effect may wait before somebody should ask whether worker and beat run.
LATE = 30.0
# Seconds that two clocks may differ, and that workers have to answer.
SKEW, PING = 5.0, 1.0
# What to do when one cannot be asked at all.
ASK = {
    "versions": "install from requirements.lock again",
    "database": "is PostgreSQL up, does it let this machine in, and is DATABASE_URL right?",
    "broker": "is the broker up, does it let this machine in, and is BROKER_URL right?",
    "cache": "is Redis up, does it let this machine in, and is REDIS_URL right?",
    "host": "does REDIRECT_HOST name the right host, and does its own page in docs/hosts ask for something?",
}


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether all is well, and what to know; of one that is bad, what to do as well."""

    name: str
    ok: bool
    says: str


def examine(settings: Settings) -> list[Finding]:
    """Every check, in order; one that cannot be made is a bad finding, never an exception."""
    checks: list[tuple[str, Callable[[Settings], Iterator[Finding]]]] = [
        ("versions", _this),
        ("database", _database),
        ("broker", _broker),
        ("cache", _cache),
        ("host", _host),
    ]
    return [finding for name, check in checks for finding in _safely(name, check, settings)]


def _safely(name: str, check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check(settings))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are still to be made
        says = str(getattr(error, "orig", error)).strip() or type(error).__name__
        findings.append(_finding(name, False, hide(says.splitlines()[0]), ASK[name]))
    return findings


def _finding(name: str, ok: bool, says: str, fix: str) -> Finding:
    return Finding(name, ok, says if ok else f"{says}: {fix}")


def _this(settings: Settings) -> Iterator[Finding]:
    packages = ("redirect-worker", "celery", "kombu", "redis", "sqlalchemy")
    told = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    yield Finding("versions", True, ", ".join(told))
    enough = len(POLICIES) + 1
    says = f"{settings.concurrency}; with fewer than {enough} a copy that hangs may hold up redirects"
    yield _finding("worker processes", settings.concurrency >= enough, says, "set REDIRECT_CONCURRENCY")


def _database(_settings: Settings) -> Iterator[Finding]:
    database = engine()
    with database.connect() as connection:
        version = connection.scalar(text("SHOW server_version"))
        yield Finding("database", True, f"PostgreSQL {version}")
        durable = connection.scalar(text("SHOW synchronous_commit"))
        says = f"{durable}; off would lose redirects in a crash"
        yield _finding("synchronous_commit", durable != "off", says, "set it on, for this role or in postgresql.conf")
        skew = connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float8")) - time.time()
        yield _clock("clock", "database", skew)
    current, head = migrations.current(database), migrations.head()
    fits, newer = migrations.fits(current), "" if current == head else f", newer than this version's {head}"
    says = f"{current}{newer}" if fits else f"{current}, should be {head}"
    yield _finding("schema", fits, says, "run `redirect-worker migrate`")
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
    yield _finding("oldest due side effect", late < LATE, f"{max(late, 0):.0f} s late", "do worker and beat run?")
    fix = "each needs a person; `redirect-worker effects list --state dead` says why"
    yield _finding("dead side effects", dead == 0, str(dead), fix)
    yield Finding("rejected events", True, f"{rejected} kept")


def _broker(settings: Settings) -> Iterator[Finding]:
    from worker.app import app

    url = settings.url("broker_url")
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        shown = "; ".join(_hidden(each) for each in url.split(";"))
        yield Finding("broker", True, f"{_product(connection)} at {shown}")
        if not url.startswith("redis"):
            from worker import doctor_rabbitmq

            answers = doctor_rabbitmq.examine(connection, app.conf.task_queues, settings.rabbitmq_api)
            yield from (Finding(*answer) for answer in answers)
    if url.startswith("redis"):
        with Redis.from_url(url, socket_timeout=2) as broker:
            policy = broker.config_get("maxmemory-policy")["maxmemory-policy"]
            kept = broker.config_get("appendonly")["appendonly"]
        says = f"maxmemory-policy {policy}; any but noeviction would drop tasks"
        yield _finding("broker eviction", policy == "noeviction", says, "set maxmemory-policy noeviction")
        says = f"appendonly {kept}; no would lose queued tasks in a restart"
        yield _finding("broker durability", kept == "yes", says, "set appendonly yes")

    yield _clocks(app)


def _product(connection: Any) -> str:
    """The server behind a kombu connection, and its version."""
    if connection.transport.driver_type == "redis":
        return _server(connection.default_channel.client.info("server"))
    told = connection.default_channel.connection.server_properties
    return f"{told.get('product', 'a broker')} {told.get('version', 'of unknown version')}"


def _server(info: Any) -> str:
    product = "Valkey" if "valkey_version" in info else "Redis"
    return f"{product} {info.get('valkey_version') or info['redis_version']}"


def _clocks(app: Any) -> Finding:
    """Of the machines with workers, against this one's; an answer is up to PING old."""
    asked = time.time()
    answers = app.control.broadcast("wall_clock", reply=True, timeout=PING) or []
    skews = {host: told["now"] - asked for answer in answers for host, told in answer.items() if "now" in told}
    wrong = [f"{host} is {skew:+.1f} s off" for host, skew in sorted(skews.items()) if abs(skew) >= SKEW + PING]
    if not skews:
        return Finding("worker clocks", True, "no worker answers, so none was compared")
    says = "; ".join(wrong) or f"{len(skews)} within {SKEW:.0f} s"
    return _finding("worker clocks", not wrong, says, "set the clock there (NTP)")


def _clock(name: str, whose: str, skew: float) -> Finding:
    says = f"the {whose} is {skew:+.1f} s from this machine"
    return _finding(name, abs(skew) < SKEW, says, "set the clock of the one that is wrong (NTP)")


def _hidden(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _host(_settings: Settings) -> Iterator[Finding]:
    if (checks := host().checks) is not None:
        yield from (Finding(*answer) for answer in checks(engine()))


def _cache(settings: Settings) -> Iterator[Finding]:
    yield Finding("cache", True, _server(client().info("server")))
    told: Any = client().time()
    yield _clock("cache clock", "cache", told[0] + told[1] / 1e6 - time.time())
    apart = settings.url("redis_url") != settings.url("broker_url")
    says = "yes" if apart else "no, a full or flushed cache would take the queue along"
    yield _finding("broker and cache apart", apart, says, "give REDIS_URL and BROKER_URL a server each")
