"""The faults by family, one file each; a test is one row of the table in docs/reliability.md."""

from collections.abc import Callable
from typing import Any

import pytest

Judge = Callable[..., Any]


def scenario(number: int, fault: str) -> pytest.MarkDecorator:
    return pytest.mark.scenario(number, fault)


def on(*brokers: str) -> pytest.MarkDecorator:
    """Which brokers it is run on: `redis`, `rabbitmq`, `quorum` (so by default), `cluster` (of three)."""
    return pytest.mark.parametrize("world", brokers, indirect=True)


on_both = on("redis", "rabbitmq")
