"""The time that each fuzzer has, the seed, and the table at the end."""

import os
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from tests.fuzz.rounds import Rounds

_ENDS = pytest.StashKey[float]()
_TRIED = pytest.StashKey[list[Rounds]]()


@pytest.fixture(scope="session")
def seed() -> str:
    return os.environ.get("TEST_SEED") or str(Random().randrange(10**6))


@pytest.fixture
def rounds(request: pytest.FixtureRequest, seed: str) -> Iterator[Rounds]:
    """What the target, named by its test, has of the time that is left."""
    made = Rounds(target(request.node), seed, _share(request))
    if made.seconds is not None:
        print(f"\n{made.target}: {made.seconds:.0f} s, seed {seed}", flush=True)  # noqa: T201
        request.config.stash.setdefault(_TRIED, []).append(made)
    yield made


def target(item: pytest.Item) -> str:
    """`test_celery[redis]` is celery-redis."""
    return item.name.removeprefix("test_").replace("[", "-").replace("]", "").replace("_", "-")


def _share(request: pytest.FixtureRequest) -> float | None:
    if (seconds := os.environ.get("FUZZ_SECONDS")) is None:
        return None
    session = request.session
    ends = session.stash.setdefault(_ENDS, time.monotonic() + float(seconds))
    left = len(session.items) - session.items.index(request.node)
    return max(1.0, (ends - time.monotonic()) / left)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make fuzz` runs the targets alone; ONLY=celery those whose names begin so."""
    if "FUZZ_SECONDS" in os.environ:
        wanted = os.environ.get("FUZZ_ONLY", "")
        items[:] = [item for item in items if _is_target(item) and target(item).startswith(wanted)]


def _is_target(item: pytest.Item) -> bool:
    return "rounds" in getattr(item, "fixturenames", ())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if tried := config.stash.get(_TRIED, []):
        terminalreporter.write_line(f"\n{'target':<20}{'inputs tried':>14}{'crashes':>9}")
        for made in tried:
            terminalreporter.write_line(f"{made.target:<20}{made.tried:>14,}{made.crashes:>9}")
