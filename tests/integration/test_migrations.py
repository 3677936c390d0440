"""The schema: from nothing, up and down with the data, the same as the models, and never in anybody's way."""

import os
import subprocess
import sys
import threading
import time
from itertools import count

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from tests.eventually import eventually
from tests.integration.databases import ROWS, SEEDED, TABLES, Database
from worker.db import migrations
from worker.db.models import metadata
from worker.db.session import make_engine, psycopg2_url

NEWEST = {"guards", "proofs"}
_numbers = count(1)


@pytest.fixture
def empty(servers: dict[str, str]) -> Database:
    """A database in which nothing has ever been."""
    name = f"migrations_{next(_numbers)}"
    admin = create_engine(psycopg2_url(servers["postgres"]), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy"))
    return Database(servers["postgres"], name)


@pytest.fixture
def migrated(empty: Database) -> Database:
    """A migrated database with a row in each table."""
    migrations.upgrade(empty.url)
    empty.run(*ROWS.values())
    return empty


MIGRATORS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'redirect-worker'"""
CATALOGUE = """
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND conname NOT LIKE 'alembic%'
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL
    SELECT 'column', table_name, column_name,
        concat_ws(' ', data_type, udt_name, is_nullable, column_default, is_identity)
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    ORDER BY 1, 2, 3"""


def test_from_nothing_to_head(empty: Database) -> None:
    """Every table of the contract, at the newest revision; and once more changes nothing."""
    engine = make_engine(empty.url, poolclass=NullPool)
    assert migrations.current(engine) is None

    migrations.upgrade(empty.url)

    assert empty.tables() == TABLES | {"alembic_version"}
    assert migrations.current(engine) == migrations.head()
    before = empty.rows(CATALOGUE)
    migrations.upgrade(empty.url)
    assert empty.rows(CATALOGUE) == before


def test_alembic_sees_no_difference_between_models_and_migrations(empty: Database) -> None:
    """Autogenerate has nothing to write."""
    migrations.upgrade(empty.url)

    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_every_rule_of_the_models_is_in_the_database(empty: Database) -> None:
    """CHECK constraints, which autogenerate does not compare, by name."""
    migrations.upgrade(empty.url)

    models = {
        (table.name, str(constraint.name))
        for table in metadata.sorted_tables
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    database = set(
        empty.rows(
            """SELECT conrelid::regclass::text, conname FROM pg_constraint
               WHERE contype = 'c' AND connamespace = 'public'::regnamespace"""
        )
    )
    assert database == models
    assert len(models) > 5


def test_models_and_migrations_make_the_same_catalogue(empty: Database) -> None:
    """Columns, defaults, constraints and indexes, name by name and word by word."""
    migrations.upgrade(empty.url)
    by_migrations = empty.rows(CATALOGUE)
    migrations.downgrade(empty.url, "base")

    metadata.create_all(empty.engine)

    assert empty.rows(CATALOGUE) == by_migrations


def test_one_step_down_and_up_keeps_every_row(migrated: Database) -> None:
    """The newest step made two tables, for hosts: of no other a row is gone, neither without it nor with it again."""
    before = migrated.content()

    migrations.downgrade(migrated.url)
    assert counted(migrated) == {table: len(rows) for table, rows in before.items() if table not in NEWEST}
    migrations.upgrade(migrated.url)

    assert migrated.content() == before


def counted(database: Database) -> dict[str, int]:
    """Rows by table: a column may be gone, and a row not."""
    return {table: len(rows) for table, rows in database.content().items()}


def test_a_step_down_and_up_keeps_the_tables_that_stay(migrated: Database) -> None:
    """Only what that step made is gone; up again, it is there and empty."""
    before = migrated.content()

    migrations.downgrade(migrated.url, "0002")
    assert counted(migrated) == {
        table: len(rows) for table, rows in before.items() if table not in {"event_outbox", *NEWEST}
    }
    migrations.upgrade(migrated.url)

    assert migrated.content() == before | {"event_outbox": []}


def test_down_to_nothing_and_up_keeps_what_is_not_ours(migrated: Database) -> None:
    """A host application's table in the same database is none of our business."""
    migrated.run("CREATE TABLE theirs (id int)", "INSERT INTO theirs VALUES (1), (2)")

    migrations.downgrade(migrated.url, "base")

    assert migrated.tables() == {"theirs", "alembic_version"}
    migrations.upgrade(migrated.url)
    assert migrated.rows("SELECT id FROM theirs ORDER BY id") == [(1,), (2,)]
    assert migrated.content() == {table: [] for table in TABLES - SEEDED}


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005", "0006"])
def test_each_revision_goes_down_and_up_again(empty: Database, revision: str) -> None:
    """What a step makes is what the step back takes away."""
    migrations.upgrade(empty.url, revision)
    made = empty.rows(CATALOGUE)

    migrations.downgrade(empty.url)
    migrations.upgrade(empty.url, revision)

    assert empty.rows(CATALOGUE) == made


def test_migrators_at_once_do_no_harm(empty: Database) -> None:
    """Every process of a new release may migrate: one does, the others wait for it and find it done."""
    command = [sys.executable, "-c", "from worker.db import migrations; migrations.upgrade()"]
    environment = os.environ | {"DATABASE_URL": empty.url}

    # Processes, because Alembic's context is one per process.
    with empty.holding("SELECT pg_advisory_xact_lock(hashtext('redirect-worker migrate'))"):
        migrators = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
        eventually(lambda: empty.rows(MIGRATORS) == [(2,)], within=60)
        assert empty.tables() == set()
    errors = [migrator.communicate(timeout=60)[1].decode() for migrator in migrators]

    assert [migrator.returncode for migrator in migrators] == [0, 0], errors
    assert empty.tables() == TABLES | {"alembic_version"}
    assert empty.rows("SELECT version_num FROM alembic_version") == [(migrations.head(),)]


def test_a_migration_that_is_blocked_gives_up(migrated: Database) -> None:
    """It fails by its lock timeout instead of making everybody wait behind it, changes nothing, and works later."""
    before = migrated.rows(CATALOGUE)

    with migrated.holding("SELECT FROM conversation_states"), pytest.raises(OperationalError, match="lock timeout"):
        migrations.downgrade(migrated.url, "0004")

    assert migrated.rows(CATALOGUE) == before
    migrations.downgrade(migrated.url, "0004")
    assert migrated.rows(CATALOGUE) != before


def test_a_migration_that_fails_leaves_nothing(empty: Database) -> None:
    """One transaction for all steps: half a schema is never seen."""
    empty.run("CREATE TABLE event_outbox (id int)")

    with pytest.raises(Exception, match="already exists"):
        migrations.upgrade(empty.url)

    assert empty.tables() == {"event_outbox"}


@pytest.mark.slow
def test_no_migration_keeps_a_writer_waiting_on_a_million_conversations(empty: Database) -> None:
    """While all indexes are built, redirects go on: the longest wait is a small part of what building takes."""
    migrations.upgrade(empty.url, "0004")
    empty.run(
        """INSERT INTO conversation_states
            (conversation_id, status, ai_enabled, destination, version, occurred_at, event_id)
        SELECT 'c' || n, 'active', true, 'ai', 1, now(), 'e' FROM generate_series(1, 1000000) n"""
    )
    took: list[float] = []
    done = threading.Event()

    def write() -> None:
        engine = make_engine(empty.url)
        for number in count():
            if done.is_set():
                return
            started = time.monotonic()
            with engine.begin() as connection:
                values = {"id": f"c{1 + number * 7919 % 1_000_000}"}
                connection.execute(
                    text("UPDATE conversation_states SET version = version + 1 WHERE conversation_id = :id"), values
                )
            took.append(time.monotonic() - started)
            time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        started = time.monotonic()
        migrations.upgrade(empty.url)
        whole = time.monotonic() - started
    finally:
        done.set()
        writer.join()

    assert len(took) > 50 and max(took) < whole / 4, (sorted(took)[-3:], whole)
    assert empty.rows("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
