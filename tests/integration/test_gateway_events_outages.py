"""`POST /events` when the database is away, hangs, or does not commit."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from tests.eventually import eventually
from tests.integration.gateways import Gateway, gateway, waiting_for_a_lock
from tests.integration.posting import event, outbox, post
from tests.integration.test_gateway_outages import away
from tests.service import Service
from worker.gateway.events import PATIENCE


@pytest.fixture
def fresh(service: Service) -> Iterator[Gateway]:
    with gateway(service) as web:
        yield web


def test_without_a_database_the_answer_says_when_to_come_back(fresh: Gateway, service: Service) -> None:
    """503 with Retry-After, and nothing is stored; once it is back, all is well."""
    assert post(fresh, event("e1")).status == 202
    with away(service):
        answer = post(fresh, event("e2"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert post(fresh, event("e3")).status == 202
    assert [one["event_id"] for one in outbox(service)] == ["e1", "e3"]


def test_a_database_that_hangs_is_answered_in_bounded_time(fresh: Gateway, service: Service) -> None:
    """For as many producers as ask, while reads go on; what was not begun by then never happens."""
    with ThreadPoolExecutor(6) as producers, service.engine.begin() as holding:
        holding.execute(text("LOCK TABLE event_outbox IN ACCESS EXCLUSIVE MODE"))
        started = time.monotonic()
        answers = producers.map(lambda number: post(fresh, event(f"e{number}")).status, range(6))
        eventually(lambda: waiting_for_a_lock(service))
        assert fresh.get("/conversations/nobody").status == 404
        assert set(answers) == {503}
        assert time.monotonic() - started < PATIENCE + 3
    eventually(lambda: not waiting_for_a_lock(service))
    assert len(outbox(service)) <= 2


def test_accepted_means_committed(fresh: Gateway, service: Service) -> None:
    """An event whose commit fails is not accepted, though its INSERT did not fail; and what was refused with it is
    not kept either."""
    with service.engine.begin() as connection:
        # A check at commit: what the INSERT lets pass and the COMMIT does not.
        connection.execute(
            text("""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE EXCEPTION 'no commit' USING ERRCODE = 'serialization_failure'; END $$""")
        )
        connection.execute(
            text("""CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON event_outbox DEFERRABLE INITIALLY DEFERRED
                    FOR EACH ROW EXECUTE FUNCTION refuse()""")
        )
    assert post(fresh, [event("e1"), 5]).status == 503
    assert (outbox(service), service.rejected()) == ([], [])
