"""kombu's Redis transport, which survives list items that are no messages (a raw LPUSH by a foreign producer).

kombu takes the item off the list before it reads it, so an item that it cannot read is lost and the connection with it
(`KeyError('properties')`, or a JSON error that kills the worker). Here such an item becomes a message that the gate
parks: until then it is unacknowledged like any other, and nothing that happens to the worker loses it.
"""

import os
from contextlib import AbstractContextManager, suppress
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis
from redis.exceptions import ConnectionError as Unreachable

from worker.guard.delivery import HANDS, QoS, take_over
from worker.guard.envelope import delivered, readable
from worker.guard.taking import QUEUE, Poller, Taking

log = structlog.get_logger(__name__)


class Channel(redis.Channel):
    """kombu's channel with a check between Redis and kombu's decoder."""

    QoS = QoS

    # How QUEUE is read; kombu reads the others.
    taking: Taking | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taking = Taking(self)

    def _update_queue_cycle(self) -> None:
        self._queue_cycle.update([queue for queue in self.active_queues if queue != QUEUE])

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self.taking and self.taking.client.connection is connection:
            self.taking.asked = None
        super()._on_connection_disconnect(connection)

    def _get_client(self) -> Any:
        return _checked(super()._get_client())

    def _connparams(self, asynchronous: bool = False) -> Any:
        # kombu 5.7: when the broker goes away under unacknowledged messages, Celery collects the connection and then
        # closes it, and the close wants to restore them through a connection that has no address any more. That
        # AttributeError ended the worker; a connection error is what its caller expects and ignores.
        if getattr(self.connection, "client", None) is None:
            raise Unreachable("the connection to the broker is closed")
        return super()._connparams(asynchronous=asynchronous)

    def _after_fork(self) -> None:
        """In a new process, let go of the parent's sockets. (redis-py forgets them there, and closes none.)"""
        transport: Any = self.connection
        if transport is not None:  # not closed
            transport.cycle.poller.close()  # first: what is closed leaves this list, which is the parent's too
        for pool in filter(None, (self._pool, self._async_pool)):
            pool.pid = os.getpid()
        super()._after_fork()

    def _brpop_start(self, *args: Any, **kwargs: Any) -> Any:
        if HANDS and [self.qos] != HANDS:
            with self.conn_or_acquire() as client:
                take_over(self.qos, client)
        return super()._brpop_start(*args, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        """With the last queue: what Redis hands out until then goes back at once.

        It has been asked to wait for up to a second. kombu would look at its answer when the worker has ended.
        """
        answer = super()._basic_cancel(consumer_tag)
        if not self._active_queues:
            if self._in_poll:
                with suppress(Empty):
                    self._brpop_read()
            if self.taking and self.taking.asked:
                with suppress(Empty):
                    self.taking.read()
        return answer

    def together(self) -> AbstractContextManager[None]:
        """What is acknowledged in this block, is in one step at its end."""
        return self.qos.together()  # type: ignore[no-any-return]

    def _receive_one(self, client: Any) -> Any:
        """One message of the control channel (Flower, `celery control`), which anybody can publish on."""
        lost = [kind for kind in self.connection_errors if kind is not KeyError]
        try:
            return super()._receive_one(client)
        except (*lost, Empty):
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it: it is no event, and nobody counts on it
            log.warning("a control message that cannot be read", action="control_dropped", error=repr(error))
            return None


class Transport(redis.Transport):
    """kombu's transport with the checked channel."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def _deliver(self, message: Any, queue: Any) -> None:
        message["properties"] = delivered(message["properties"], queue)
        self.hand_on(message, queue)

    def hand_on(self, message: Any, queue: str) -> None:
        """To its consumer."""
        super()._deliver(message, queue)


def _checked(client_class: Any) -> Any:
    class Client(client_class):
        """What BRPOP brings is a message, or becomes one."""

        def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
            answer = super().parse_response(connection, command_name, **options)
            return (answer[0], readable(answer[1])) if command_name == "BRPOP" and answer else answer

    return Client
