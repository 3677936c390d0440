"""What is in hand: taken off a Redis list, and not acknowledged yet."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import structlog
from kombu.transport import redis, virtual
from kombu.utils.json import dumps
from redis.exceptions import RedisError, ResponseError

log = structlog.get_logger(__name__)

# Taken off their lists when the connection was lost, before it could be noted: the message, and its queue. They are
# nowhere but here until the next connection puts them back.
ADRIFT: list[tuple[Any, str]] = []


class QoS(redis.QoS):
    """kombu's list of what is in hand."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note it in Redis, for the case that this worker is killed. A full Redis refuses; then it is done unnoted.

        It is off its list already: kombu's way, to give up (and Celery's, to end the worker), would lose it for sure.
        """
        try:
            super().append(message, delivery_tag)
        except ResponseError as refused:
            log.warning("the broker takes no notes", action="delivery_not_noted", error=str(refused))
            virtual.QoS.append(self, message, delivery_tag)
        except (RedisError, OSError):
            ADRIFT.append((message._raw, message.delivery_info["routing_key"]))
            raise


def put_back(client: Any) -> None:
    """Put what a lost connection left in our hands back on its list, the next to be read.

    It may be noted after all, if only the answer was lost: then it comes twice, which changes nothing.
    """
    while ADRIFT:
        message, queue = ADRIFT[-1]
        client.rpush(queue, dumps(message))
        ADRIFT.pop()
        log.warning("a message that the lost connection had left here is put back", action="delivery_put_back")


def delivered(properties: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """The properties, those of the delivery our own.

    A tag that two messages share acknowledges both with the first; a message that is put back (its worker was killed)
    goes where its delivery_info says, and nowhere if no such exchange is known: both lose it.
    """
    kept = {name: value for name, value in properties.items() if isinstance(value, str | int)}
    info = properties.get("delivery_info")
    redelivered = isinstance(info, Mapping) and info.get("redelivered") is True
    return kept | {
        "delivery_tag": str(uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue, "redelivered": redelivered},
    }
