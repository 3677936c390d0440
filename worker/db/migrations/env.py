"""Alembic's entry: one migrator at a time, and no wait for a lock that would stop the service."""

import time

from alembic import context
from sqlalchemy import Connection, NullPool, text

from config.settings import settings
from worker.db.models import metadata
from worker.db.session import make_engine

# A migration that waits for a lock makes everybody behind it wait too: better to fail and be started again.
TIMEOUTS = "SET lock_timeout = '4s'; SET statement_timeout = '120s'; SET idle_in_transaction_session_timeout = 0"
# Asked again and again, not waited for: who waits in a statement holds a snapshot, and an index that is built
# concurrently waits for all of those.
ONE_MIGRATOR = "SELECT pg_try_advisory_lock(hashtext('redirect-worker migrate'))"
PATIENCE = 300.0


def _wait_for_others(connection: Connection) -> None:
    deadline = time.monotonic() + PATIENCE
    while not connection.execute(text(ONE_MIGRATOR)).scalar():
        connection.rollback()
        if time.monotonic() > deadline:
            raise TimeoutError(f"another migration has been running for {PATIENCE:.0f} s")
        time.sleep(0.2)


def _migrate() -> None:
    url = context.config.attributes.get("database_url") or settings().url("database_url")
    engine = make_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(TIMEOUTS))
        _wait_for_others(connection)
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


_migrate()
