"""Connections to PostgreSQL: made on first use, never shared across a fork."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from psycopg2 import DataError, IntegrityError
from psycopg2.errors import UniqueViolation
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from config.settings import settings
from worker.errors import Permanent, Transient

# Every wait has an end. A redirect takes milliseconds; what takes seconds is stuck behind something and is retried.
STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
_SESSION = {
    "timezone": "UTC",  # year 1 in UTC is no year at all west of Greenwich
    "statement_timeout": STATEMENT_TIMEOUT_MS,
    "lock_timeout": LOCK_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": 15_000,
    # Our statements are short and find their rows by an index. A plan that is kept (worker/db/prepared.py) may be made
    # while a table is new, and must not read all of it when it holds millions.
    "enable_seqscan": "off",
    "jit": "off",
    # A host that vanishes must not hold a lock on a kind of side effects for the two hours of TCP's default.
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
}


def psycopg2_url(url: str) -> URL:
    """`url` for SQLAlchemy 2.1, which reads `postgresql://` as psycopg 3 and refuses `postgres://`."""
    return make_url(url.replace("postgres://", "postgresql://", 1)).set(drivername="postgresql+psycopg2")


def make_engine(url: str, **options: Any) -> Engine:
    """An engine with every timeout set. No pre-ping: a lost connection is Transient, the retry finds another."""
    arguments = {
        "connect_timeout": 2,
        "application_name": "redirect-worker",
        "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
        # The client's side of the same bargain: a server that vanishes is noticed within seconds.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 12_000,
    }
    pool = {"pool_size": 2, "max_overflow": 2, "pool_timeout": 5} if "poolclass" not in options else {}
    return create_engine(psycopg2_url(url), connect_args=arguments, **pool, **options)


@lru_cache(maxsize=1)
def engine() -> Engine:
    """This process's engine. Raises config.settings.NotConfigured."""
    return make_engine(settings().url("database_url"))


def _after_fork_in_child() -> None:
    """Forget the parent's connections without closing them: the sockets are still the parent's."""
    if engine.cache_info().currsize:
        engine().dispose(close=False)
        engine.cache_clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def single_statements(engine: Engine) -> Iterator[Connection]:
    """A connection on which each statement is its own transaction: no BEGIN and COMMIT to wait for around it.

    psycopg2's own switch, because SQLAlchemy's isolation level sets one at the server, each time and back again.
    """
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        driver.autocommit = True
        try:
            yield connection
        finally:
            if not driver.closed:
                connection.rollback()
                driver.autocommit = False


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the driver raises into what to do next: Permanent for bad data, Transient for everything else."""
    try:
        yield
    except PoolTimeout as error:
        raise Transient(f"no free connection: {error}") from error
    except DBAPIError as error:
        raise judged(error.orig) from error


def judged(error: BaseException | None) -> Permanent | Transient:
    """What to do next after an error of the driver.

    A duplicate key is Transient: two transactions raced, and the loser finds the winner's row when it looks again.
    """
    bad_data = isinstance(error, DataError | IntegrityError) and not isinstance(error, UniqueViolation)
    return (Permanent if bad_data else Transient)(str(error).strip())
