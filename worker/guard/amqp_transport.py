"""kombu's RabbitMQ transport, where every wait ends, a confirm is one's own, and the prefetch suits quorum queues."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import structlog
from amqp.exceptions import MessageNacked, RecoverableConnectionError
from billiard.util import register_after_fork
from kombu.transport import pyamqp

from worker.broker import VerifiedConnection
from worker.guard.amqp_frames import readable_frames

log = structlog.get_logger(__name__)

# Seconds for RabbitMQ to confirm a message whose sender named no bound of its own. A node whose memory or disk alarm
# rings stops reading and says nothing: unbounded, whoever publishes stands still with it.
CONFIRMED_WITHIN = 2.0
# Seconds for the answer to anything else, such as a declaration: a quorum queue may first have to agree on a leader.
ANSWERED_WITHIN = 10.0
TRANSIENT = 1


class Channel(pyamqp.Channel):
    """A channel on which every publish ends: confirmed, refused, or with the connection given up.

    Confirms are matched by number. (py-amqp takes whatever confirm comes next for its own, and so that of a message
    which nobody waits for.) https://www.rabbitmq.com/docs/confirms#publisher-confirms
    """

    _confirm_selected: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._number = 0
        self._awaited: dict[int, bool | None] = {}
        self.events["basic_ack"].add(partial(self._answered, True))
        self.events["basic_nack"].add(partial(self._answered, False))

    def confirm_select(self, nowait: bool = False) -> Any:
        self._number = 0
        self._awaited.clear()
        return super().confirm_select(nowait)

    def basic_publish_confirm(self, msg: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns once RabbitMQ has confirmed `msg`. Raises TimeoutError or MessageNacked.

        What is transient (Flower's events, doorbells) is not waited for. Celery would send a worker's signs of life
        again until they are confirmed, and do nothing else meanwhile: in an alarm the worker would stand still.
        """
        timeout = kwargs.get("timeout") or CONFIRMED_WITHIN
        within = kwargs.pop("confirm_timeout", None) or timeout
        awaited = msg.properties.get("delivery_mode") != TRANSIENT
        with self._given_up_in_silence():
            if awaited and not self._confirm_selected:
                self._confirm_selected = True
                self.confirm_select()
            self._number += 1
            number = self._number
            if awaited:
                self._awaited[number] = None
            published = self._basic_publish(msg, *args, **(kwargs | {"timeout": timeout}))
            if awaited:
                self._wait_for(number, time.monotonic() + within)
        return published

    def _wait_for(self, number: int, deadline: float) -> None:
        while self._awaited[number] is None:
            if self.connection is None:
                raise RecoverableConnectionError("the connection was lost before the message was confirmed")
            self.connection.drain_events(timeout=max(0.001, deadline - time.monotonic()))
        if not self._awaited.pop(number):
            raise MessageNacked

    def _answered(self, taken: bool, number: int, multiple: bool) -> None:
        for awaited in self._awaited:
            if awaited == number or (multiple and awaited < number):
                self._awaited[awaited] = taken

    def together(self) -> AbstractContextManager[None]:
        """To acknowledge several messages: nothing waits for an answer here, so one by one will do."""
        return nullcontext()

    def basic_consume(self, *args: Any, no_ack: bool = False, callback: Any = None, **kwargs: Any) -> Any:
        """Where nothing is acknowledged come commands and events, which anybody can publish: one that cannot be read
        is dropped. (Celery's gossip would end the worker over it.)
        """
        heard = partial(_heard, callback) if no_ack and callback else callback
        return super().basic_consume(*args, no_ack=no_ack, callback=heard, **kwargs)

    def wait(self, method: Any, callback: Any = None, timeout: float | None = None, returns_tuple: bool = False) -> Any:
        """For the answer to a method. py-amqp waits for ever, and a node in an alarm gives none."""
        with self._given_up_in_silence():
            return super().wait(method, callback, timeout or ANSWERED_WITHIN, returns_tuple)

    @contextmanager
    def _given_up_in_silence(self) -> Iterator[None]:
        """A connection without an answer may be dead, and its place is in a pool: nobody else should wait for it."""
        try:
            yield
        except TimeoutError:
            if self.connection is not None:
                self.connection.collect()
            raise


def _heard(callback: Any, message: Any) -> None:
    try:
        callback(message)
    except (*pyamqp.Transport.connection_errors, *pyamqp.Transport.channel_errors):
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it: it is no event, and nobody counts on it
        log.warning("a control message that cannot be read", action="control_dropped", error=repr(error))


class Connection(VerifiedConnection):
    """A connection of such channels, which survives what it cannot read; a new process of the pool has none of it."""

    Channel = Channel

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(host, **{"frame_handler": readable_frames} | options)
        register_after_fork(self, Connection.collect)


class Transport(pyamqp.Transport):
    """kombu's transport with the bounded channel."""

    Connection = Connection

    def qos_semantics_matches_spec(self, connection: Any) -> bool:  # noqa: ARG002 - kombu's signature
        """Whether a prefetch is for one consumer: always, here.

        By the queues it knows Celery cannot see a virtual host whose queues are quorum queues by default, and RabbitMQ
        closes the connection of a consumer that wants a common prefetch there (540 NOT_IMPLEMENTED).
        """
        return True


class SSLTransport(pyamqp.SSLTransport, Transport):
    """The same for amqps://."""
