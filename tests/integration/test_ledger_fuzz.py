"""Whatever parsing lets through, PostgreSQL stores, and knows again."""

from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.ledgers import ledger_of
from tests.service import Service
from tests.unit.test_events_fuzz import VALID, near_events, scalars, text, times, values

_numbers = count(1)
texts = st.dictionaries(st.sampled_from(["reason", "source", "owner_id", "conversation_id"]), text, max_size=4)
more = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.dictionaries(text, scalars, max_size=4),
        "occurred_at": times,
        "actor": st.fixed_dictionaries({"type": st.just("user"), "id": text}),
    },
)
likely_events = st.builds(lambda said, also: VALID | said | also, texts, more)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(likely_events | near_events | values, min_size=1, max_size=6))
def test_invariant_6_any_batch_has_an_outcome_for_each_event(service: Service, raws: list[object]) -> None:
    """No text, number or time makes the batch fail, and what was not rejected gets the same outcome when repeated."""
    ledger = ledger_of(service)
    number = next(_numbers)
    batch = [raw | {"event_id": f"{number}-{n}"} if isinstance(raw, dict) else raw for n, raw in enumerate(raws)]

    outcomes = ledger.accept(batch).outcomes
    again = ledger.accept(batch).outcomes

    assert len(outcomes) == len(batch)
    accepted = [n for n, outcome in enumerate(outcomes) if outcome.outcome != "rejected"]
    assert [again[n] for n in accepted] == [outcomes[n] for n in accepted]
