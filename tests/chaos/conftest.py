"""A world for each scenario, and the table at the end."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import SystemRandom

import pytest

from tests.chaos.harness.checker import Verdict, verdict
from tests.chaos.harness.report import Reporter
from tests.chaos.harness.world import World
from tests.chaos.harness.world import world as made
from tests.rabbitmq import installed
from tests.rabbitmq_cluster import Cluster

# Of each broker but Redis: the fixture of its node, and the options of the virtual host.
BROKERS: dict[str, tuple[str, dict[str, str]]] = {
    "rabbitmq": ("rabbitmq", {}),
    "quorum": ("rabbitmq", {"default_queue_type": "quorum"}),
    "cluster": ("rabbitmq_cluster", {"default_queue_type": "quorum"}),
}


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # else it is one of xdist's, and prints nothing
        config.pluginmanager.register(Reporter(os.environ.get("REDIRECT_CHAOS_TABLE")))


@pytest.fixture(scope="session")
def rabbitmq_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of this run's own. Tests take a virtual host each."""
    if installed() is None:
        pytest.skip("rabbitmq-server is not installed")
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def seed() -> int:
    """Everything that is drawn comes from it: REDIRECT_CHAOS_SEED=<the seed of a table> draws the same again."""
    return int(os.environ.get("REDIRECT_CHAOS_SEED") or SystemRandom().randrange(10**6))


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Iterator[World]:
    """Servers of the scenario's own on the broker that `on` names; nothing runs yet, all is ended afterwards."""
    broker = getattr(request, "param", "redis")
    name, vhost = BROKERS.get(broker, (None, {}))
    node = request.getfixturevalue(name) if name else None
    mark = request.node.get_closest_marker("scenario")
    if mark is not None:
        request.node.user_properties.append(("scenario", (*mark.args, broker)))
    with made(tmp_path, seed, node, vhost) as one:
        yield one


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """`verdict` (tests/chaos/harness/checker.py), noted for the table."""

    def judged(world: World, **options: object) -> Verdict:
        found = verdict(world, **options)  # type: ignore[arg-type]
        request.node.user_properties.append(("verdict", found.as_dict()))
        return found

    return judged
