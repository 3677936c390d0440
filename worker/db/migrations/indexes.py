"""Indexes on tables that are in use: built beside the writers, who wait for nothing however long it takes.

https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
"""

from collections.abc import Mapping

from alembic import op


def build(indexes: Mapping[str, str]) -> None:
    """Make each index (name to `table (columns)`), outside of any transaction.

    What came before in this migration is committed by it, so that has to bear being done again: where building fails,
    the revision is not reached, and what is half built is removed at the next try.
    """
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")  # on a large table it takes minutes, and nobody waits for it
        for name, columns in indexes.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {columns}")
        op.execute("SET statement_timeout = '120s'")
