"""The host's channel layer, and the proof that our key is its key.

A message under another key ends every browser connection that receives it, so nothing is sent before the host has
shown a text that our key reads. channels_redis comes with the extra `pilito`, and is imported where it is used.
"""

from typing import Any

from config.settings import settings
from worker.errors import Permanent
from worker.redis_client import TIMEOUT

# As the host's: what a channel holds that nobody reads. More is dropped.
CAPACITY = 1500
SHOWN = "redirect worker: what reads this may write to the browsers of this host"

NOT_PROVED = (
    "the host has not shown its key yet, and a message under another key ends its browsers' connections: "
    "leave a proof from within the host's Django process, then retry"
)
DIFFERENT = (
    "DJANGO_SECRET_KEY is not the host's: its proof cannot be read, and a message would end its browsers' "
    "connections. Set DJANGO_SECRET_KEY as the host has it, or leave a new proof if the host's has changed; then retry"
)


def key() -> str:
    """What the host encrypts with, as its settings make it."""
    secret = settings().django_secret_key
    return (secret.get_secret_value() if secret else "fallback-key")[:32].ljust(32, "x")


def layer() -> Any:
    """A RedisChannelLayer as the host's: for one event loop, to be closed in it. Raises Permanent without the extra."""
    core, _ = _library()
    address = {
        "address": settings().url("redis_url"),
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
    }
    return core.RedisChannelLayer(hosts=[address], capacity=CAPACITY, symmetric_encryption_keys=[key()])


def proof(host_layer: Any) -> bytes:
    """What the host shows us: a fixed text, as its layer (`channels.layers.get_channel_layer()`) writes messages.

    It holds no key, and is worth nothing but to who has it.
    """
    shown: bytes = host_layer.serialize(SHOWN)
    return shown


def check(shown: bytes | None) -> None:
    """Raises Permanent unless `shown` is the host's proof, at any age, and our key reads it."""
    if shown is None:
        raise Permanent(NOT_PROVED)
    if _read(shown) != SHOWN:
        raise Permanent(DIFFERENT)


def _read(shown: bytes) -> object:
    """The text, None where our key or format is another. Not by a layer: that reads nothing older than its expiry."""
    _, serializers = _library()
    from cryptography.fernet import InvalidToken

    serializer = serializers.registry.get_serializer(
        "msgpack", random_prefix_length=12, symmetric_encryption_keys=[key()], expiry=None
    )
    try:
        return serializer.deserialize(shown)
    except (InvalidToken, ValueError):
        return None


def _library() -> tuple[Any, Any]:
    try:
        from channels_redis import core, serializers
    except ImportError as error:
        raise Permanent(f"the extra is missing: pip install 'redirect-worker[pilito]' ({error})") from error
    return core, serializers
