"""This process, as if it had just begun: tests that play one with other settings."""

from config.settings import settings
from worker.db.session import engine
from worker.redis_client import client


def forget() -> None:
    """As in a new process."""
    if engine.cache_info().currsize:
        engine().dispose()
    if client.cache_info().currsize:
        client().close()
    for cached in (settings, engine, client):
        cached.cache_clear()
