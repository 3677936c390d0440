"""Alembic's entry: one transaction, one migrator at a time, and no wait for a lock that would stop the service."""

from alembic import context
from sqlalchemy import Connection, NullPool, text

from config.settings import settings
from worker.db.models import metadata
from worker.db.session import make_engine

# A migration that waits for a lock makes everybody behind it wait too: better to fail and be started again.
TIMEOUTS = "SET LOCAL lock_timeout = '4s'; SET LOCAL statement_timeout = '120s'"
ONE_MIGRATOR = "SELECT pg_advisory_xact_lock(hashtext('redirect-worker migrate'))"


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        connection.execute(text(ONE_MIGRATOR))
        connection.execute(text(TIMEOUTS))
        context.run_migrations()


def _migrate() -> None:
    url = context.config.attributes.get("database_url") or settings().url("database_url")
    engine = make_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        _run(connection)
        connection.commit()
    engine.dispose()


_migrate()
