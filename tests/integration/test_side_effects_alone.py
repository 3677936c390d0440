"""One writer per kind, by a lock that PostgreSQL frees the moment its holder is gone."""

import pytest
from sqlalchemy import Connection, text

from tests.service import Service
from worker.db import side_effects
from worker.db.session import make_engine
from worker.errors import Permanent, Transient
from worker.policy import POLICIES


def backend(connection: Connection) -> int:
    identity: int = connection.scalar(text("SELECT pg_backend_pid()"))
    return identity


def takes(connection: Connection, kind: str = "cache") -> bool:
    return side_effects.claim(connection, kind, POLICIES[kind], limit=1, jitter=0) is not None


def test_invariant_5_a_kind_has_one_writer_and_no_kind_waits_for_another(service: Service) -> None:
    """The second is told at once that the kind is taken; another kind is free; after the first it is free again."""
    with side_effects.desk(service.engine) as first:
        assert takes(first)
        with side_effects.desk(service.engine) as second:
            assert not takes(second)
            assert takes(second, "record")
    with side_effects.desk(service.engine) as again:
        assert takes(again)


def test_invariant_4_a_writer_that_fails_frees_its_kind(service: Service) -> None:
    """Whatever it dies of, also within a transaction, its pooled connection takes the lock nowhere."""
    engine = make_engine(service.database_url)

    for _ in range(3):
        with pytest.raises(SystemExit), side_effects.desk(engine) as connection:
            assert takes(connection)
            connection.execute(text("SELECT 1"))
            raise SystemExit

    with side_effects.desk(service.engine) as other:
        assert takes(other)
    engine.dispose()


def test_a_writer_whose_statement_fails_is_told_of_that_and_frees_its_kind(service: Service) -> None:
    """The error that ended the work is the one that is raised, not one of the clearing up."""
    engine = make_engine(service.database_url)

    with pytest.raises(Permanent, match="division by zero"), side_effects.desk(engine) as connection:
        assert takes(connection)
        connection.execute(text("SELECT 1 / 0"))

    with side_effects.desk(service.engine) as other:
        assert takes(other)
    engine.dispose()


def test_invariant_4_a_kind_is_free_when_its_holders_connection_dies(service: Service) -> None:
    """PostgreSQL frees it, no lease runs out; the holder is told when it next asks for anything."""
    engine = make_engine(service.database_url)

    with pytest.raises(Transient), side_effects.desk(engine) as holder:
        assert takes(holder)
        pid = backend(holder)
        holder.commit()
        assert service.rows("SELECT pg_terminate_backend(:pid, 5000) AS gone", pid=pid) == [{"gone": True}]
        with side_effects.desk(service.engine) as next_holder:
            assert takes(next_holder)
            holder.execute(text("SELECT 1"))

    with side_effects.desk(engine) as again:
        assert takes(again)
    engine.dispose()
