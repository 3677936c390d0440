"""`enqueue_redirect`: a producer's one call, with one right, in its own transaction."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DataError, ProgrammingError

from tests.integration.posting import event
from tests.integration.test_outbox import ids, put, taken
from tests.service import Service
from worker.db import migrations
from worker.db.session import psycopg2_url


def enqueue(service: Service, written: str | None) -> int:
    """What a producer without any library does. Returns the id of the row."""
    with service.engine.begin() as connection:
        found: int = connection.scalar(text("SELECT enqueue_redirect(:event)"), {"event": written})
        return found


def test_enqueue_redirect_puts_an_event_there(service: Service) -> None:
    """And returns the id of its row."""
    row = enqueue(service, json.dumps(event("e1", "گفتگو", unknown=[1])))
    assert service.rows("SELECT id, body FROM event_outbox") == [{"id": row, "body": event("e1", "گفتگو", unknown=[1])}]


def test_enqueue_redirect_takes_a_literal_and_json(service: Service) -> None:
    """As it is written by hand, and as SQL builds it."""
    with service.engine.begin() as connection:
        connection.exec_driver_sql(
            """SELECT enqueue_redirect('{"event_id": "e1", "conversation_id": "c1", "destination": "billing"}'),
            enqueue_redirect(json_build_object('event_id', 'e2', 'conversation_id', 'c1', 'destination', 'billing'))"""
        )
    assert sorted(ids(taken(service))) == ["e1", "e2"]


def test_enqueue_redirect_takes_an_array_as_a_row_each(service: Service) -> None:
    """So each has a time of its own; the id is that of the last."""
    row = enqueue(service, json.dumps([event("e2"), event("e1")]))
    assert service.rows("SELECT max(id) AS id FROM event_outbox") == [{"id": row}]
    first, second = taken(service)
    assert (first["event_id"], second["event_id"]) == ("e2", "e1")
    assert first["received_at"] < second["received_at"]


def test_enqueue_redirect_takes_a_cloudevent(service: Service) -> None:
    """Whose fields may be in two places: the intake says what is missing."""
    enqueue(service, '{"specversion": "1.0", "id": "e1"}')
    assert taken(service) == [{"specversion": "1.0", "id": "e1"}]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (None, "an event should be a JSON object, or an array of them, not NULL"),
        ("null", "an event should be a JSON object, or an array of them, not null"),
        ("5", "an event should be a JSON object, or an array of them, not number"),
        ('"{}"', "an event should be a JSON object, or an array of them, not string"),
        ("[]", "an event should be a JSON object, or an array of them, not an empty array"),
        ("[[]]", "an array of events should hold JSON objects, not array"),
        ("{}", "an event should have event_id as text"),
        ('{"event_id": 5}', "an event should have event_id as text"),
        ('{"event_id": "e1"}', "an event should have conversation_id as text"),
        (
            '{"event_id": "e1", "conversation_id": "c1", "destination": null}',
            "an event should have destination as text",
        ),
        (json.dumps(event("e1", reason="\x00")), "an event should not contain the character NUL"),
        (json.dumps(event("e1", reason="\ud800")), "an event should be JSON that PostgreSQL can store"),
        ('{"event_id": "e1", "n": 1e999999}', "an event should be JSON that PostgreSQL can store"),
    ],
)
def test_enqueue_redirect_refuses_what_can_be_no_event(service: Service, written: str | None, says: str) -> None:
    """With what would be right, a hint, and a code that a program can tell; the producer's transaction fails."""
    with pytest.raises(DataError, match="HINT: ") as refused:
        enqueue(service, written)
    assert refused.value.orig
    assert str(refused.value.orig).startswith(says)
    assert getattr(refused.value.orig, "pgcode", None) == "22023"
    assert taken(service) == []


def test_a_bad_event_of_an_array_takes_the_others_with_it(service: Service) -> None:
    """One call, one answer."""
    with pytest.raises(DataError, match="as text"):
        enqueue(service, json.dumps([event("e1"), {}]))
    assert taken(service) == []


def test_a_rollback_takes_the_event_back(service: Service) -> None:
    """It is the producer's transaction, not one of ours."""
    with service.engine.connect() as producer:
        producer.execute(text("SELECT enqueue_redirect(:event)"), {"event": json.dumps(event("e1"))})
        producer.rollback()
    assert taken(service) == []


# A producer's role.


@pytest.fixture
def producer(service: Service) -> Iterator[Engine]:
    """A role that may log in, and nothing else."""
    with service.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE producer LOGIN PASSWORD 'producer'")
    url = psycopg2_url(service.database_url).set(username="producer", password="producer")
    yield create_engine(url, poolclass=NullPool)
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY producer")
        connection.exec_driver_sql("DROP ROLE producer")


def as_producer(producer: Engine, statement: str) -> None:
    with producer.begin() as connection:
        connection.exec_driver_sql(statement)


CALL = """SELECT enqueue_redirect('{"event_id": "e1", "conversation_id": "c1", "destination": "ai"}')"""


def test_nobody_may_enqueue_without_the_right(service: Service, producer: Engine) -> None:
    """A role of the same database that was given nothing redirects nothing."""
    with pytest.raises(ProgrammingError, match="permission denied for function enqueue_redirect"):
        as_producer(producer, CALL)


def test_the_right_to_call_the_function_is_enough(service: Service, producer: Engine) -> None:
    """And it gives no other: the table stays closed."""
    with service.engine.begin() as connection:
        connection.exec_driver_sql("GRANT EXECUTE ON FUNCTION enqueue_redirect(json) TO producer")
    as_producer(producer, CALL)
    with pytest.raises(ProgrammingError, match="permission denied for table event_outbox"):
        as_producer(producer, "SELECT * FROM event_outbox")
    assert ids(taken(service)) == ["e1"]


SHADOWS = """
    CREATE TABLE shadows.event_outbox (id bigint DEFAULT 1, body jsonb);
    CREATE FUNCTION shadows.jsonb_typeof(jsonb) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'run'; END $$;
    SET search_path = shadows, pg_catalog, public;"""


def test_nothing_of_the_callers_is_run_or_written_to(service: Service, producer: Engine) -> None:
    """A function that acts with its owner's rights means ours by each name, whatever its caller has put before it."""
    with service.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA shadows AUTHORIZATION producer")
        connection.exec_driver_sql("GRANT EXECUTE ON FUNCTION enqueue_redirect(json) TO producer")
    as_producer(producer, SHADOWS + CALL)
    assert ids(taken(service)) == ["e1"]


def test_a_step_back_keeps_what_waits(service: Service) -> None:
    """Rows that were enqueued by the function are still there without it, and are taken."""
    enqueue(service, json.dumps(event("e1")))
    migrations.downgrade(service.database_url, "0003")
    put(service, event("e2"))
    assert ids(taken(service)) == ["e1", "e2"]
