"""kombu's Redis transport, where it is not the same under our guard."""

import pytest
from kombu import Connection
from redis.exceptions import ConnectionError as Unreachable


def test_a_channel_of_a_collected_connection_says_that_the_connection_is_gone(servers: dict[str, str]) -> None:
    """Celery collects a lost connection and then closes it; an AttributeError there ended the worker (kombu 5.7)."""
    connection = Connection(servers["broker"], transport="worker.guard.redis_transport:Transport")
    channel = connection.default_channel

    connection.collect()

    with pytest.raises(Unreachable):
        channel._connparams()  # type: ignore[attr-defined]
    assert issubclass(Unreachable, connection.connection_errors)
