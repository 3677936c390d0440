"""The proof that the host's channel layer and ours have one key: a text that the host's own process has encrypted."""

from typing import Any

from sqlalchemy import text

from worker.db.borrowed import Borrowed
from worker.db.session import engine, translated
from worker.errors import Permanent
from worker.hosts.pilito import layer

NAME = "pilito channel layer"
_LEFT = text("SELECT value FROM proofs WHERE name = :name")
_LEAVE = text("""
    INSERT INTO proofs (name, value) VALUES (:name, :value)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = now()
""")
# What this process has left; and how often it tries, should its layer have another key than its environment says.
_seen: list[bool] = []
_left: list[bytes] = []
TRIES = 3


def left() -> bytes | None:
    """What the host has left; None if it has left nothing yet. Raises Transient."""
    with translated(), engine().connect() as connection:
        return _bytes(connection.execute(_LEFT, {"name": NAME}).scalar())


def leave(connection: Borrowed) -> None:
    """In the host's own process: leave a proof, if there is none of this key. Nothing where Django has no such layer.

    It is looked for before it is written: transactions that all write one row would wait for each other.
    """
    if _seen or len(_left) == TRIES or (host_layer := _layer()) is None:
        return
    try:
        layer.check(_bytes(connection.execute(_LEFT, {"name": NAME}).scalar()))
    except Permanent:
        _left.append(layer.proof(host_layer))
        connection.execute(_LEAVE, {"name": NAME, "value": _left[-1]})
    else:
        _seen.append(True)


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _layer() -> Any:
    try:
        from channels.layers import get_channel_layer
        from django.conf import settings
    except ImportError:
        return None
    return get_channel_layer() if settings.configured else None
