"""The list of safeguards and the schedule of a soak fit the code as it is."""

from pathlib import Path

import pytest

from tests.chaos.mutations.table import MUTATIONS, Mutation
from tests.chaos.soak.schedule import EVERY, LONGEST, plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.removes)
def test_each_safeguard_stands_where_it_is_removed(mutation: Mutation) -> None:
    for edit in mutation.edits:
        assert (ROOT / edit.path).read_text().count(edit.old) == 1, edit
    path, _, name = mutation.test.partition("::")
    assert name.partition("[")[0] in (ROOT / path).read_text()


def test_a_seed_plays_the_same_schedule_again() -> None:
    assert plan(7, ["one", "other"], 600) == plan(7, ["other", "one"], 600)
    assert plan(7, ["one", "other"], 600) != plan(8, ["one", "other"], 600)


def test_a_schedule_is_as_dense_as_promised() -> None:
    """Half an hour has more than 300 faults."""
    planned = plan(1, [str(number) for number in range(30)], 1800)
    assert 300 < len(planned) < 1800 / EVERY * 1.2
    assert planned == sorted(planned)
    assert planned[-1].at <= 1800 - LONGEST
    assert len({fault.name for fault in planned}) == 30
