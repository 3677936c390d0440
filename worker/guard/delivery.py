"""What is in hand: taken off a Redis list, and not acknowledged yet."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from kombu.transport import redis, virtual
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

from worker.failpoints import reach
from worker.guard.taking import QUEUE, TAKEN, Abandoned

log = structlog.get_logger(__name__)

# All that hold something; a worker has one for each connection that it consumes from.
HANDS: list["QoS"] = []


class _BrokersTime:
    """Seconds since 1970 by the broker's clock, as far as it was heard; in between by this machine's steady one.

    kombu asks the machine. One that is an hour ahead takes all that others have in hand for abandoned, every five
    seconds; and what itself had in hand when it was killed comes back an hour late.
    """

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def hear(self, client: Any) -> None:
        with suppress(ResponseError):  # an account that may not ask
            seconds, microseconds = client.time()
            self._ahead = seconds + microseconds / 1e6 - time.monotonic()


# kombu uses it for the notes of what is in hand, and for nothing else.
redis.time = _brokers_time = _BrokersTime()


class QoS(redis.QoS):
    """kombu's list of what is in hand, which outlives its connection: what it holds then is put back by the next one.

    RabbitMQ does so by itself. Redis would only after the visibility timeout, and what it could not note, never.
    """

    _delivered: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Done, or to go back to its list, but Redis does not know it yet.
        self._done: set[str] = set()
        self._going_back: set[str] = set()
        self._later = False
        self._abandoned = Abandoned()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what is abandoned: before the first message is taken, and every `unacked_restore_interval`.

        Before that Redis is told what it would not hear. All that is in hand may be done: then nothing else would.
        """
        self._acknowledge()
        self._send_back()
        with self.channel.conn_or_acquire() as client:
            _brokers_time.hear(client)
            with suppress(ResponseError):  # an account that may not, or a full Redis
                self._abandoned.give_back(client)
        super().restore_visible(*args, **kwargs)

    def hold(self, messages: Sequence[Any], items: Sequence[bytes] = ()) -> int:
        """Note them in Redis, for the case that this worker is killed. `items`, in the same step, leave TAKEN.

        A full Redis refuses; then they are in hand unnoted. They are off their list already: kombu's way, to give up
        (and Celery's, to end the worker), would lose them for sure. Returns how many more wait on QUEUE, if told.
        """
        reach("after_pop_before_note")
        if self not in HANDS:
            HANDS.append(self)
        try:
            return self._note(messages, items)
        except ResponseError as refused:
            log.warning("the broker takes no notes", action="delivery_not_noted", error=str(refused))
            return 0
        finally:
            for message in messages:
                virtual.QoS.append(self, message, message.delivery_tag)

    def append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag not in self._delivered:  # not held before its delivery
            self.hold([message])

    def _note(self, messages: Sequence[Any], items: Sequence[bytes]) -> int:
        now = _brokers_time()
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {message.delivery_tag: now for message in messages})
            pipe.hset(self.unacked_key, mapping={message.delivery_tag: _noted(message) for message in messages})
            for item in items:
                pipe.lrem(TAKEN, -1, item)
            pipe.llen(QUEUE)
            return int(pipe.execute()[-1])

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is acknowledged in this block, is in one step at its end. A lost connection is left to `take_over`."""
        self._later = True
        try:
            yield
        finally:
            self._later = False
            try:
                self._acknowledge()
            except self.channel.connection_errors as error:
                log.warning("the broker takes no notes", action="delivery_not_noted", error=repr(error))

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge it, and what could not be before: until the visibility timeout nobody else would."""
        self._done.add(delivery_tag)
        if not self._later:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """A Redis that refuses (a replica) is told with the next one; Celery would end the worker."""
        if not self._done:
            return
        try:
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, *self._done)
                pipe.hdel(self.unacked_key, *self._done)
                pipe.execute()
        except ResponseError as refused:
            log.warning("the broker takes no notes", action="delivery_not_noted", error=str(refused))
            return
        while self._done:
            virtual.QoS.ack(self, self._done.pop())

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put it back, as the last to be read, whether or not it is noted. (kombu puts back the note.)"""
        if not requeue:
            self.ack(delivery_tag)
        elif delivery_tag in self._delivered:
            self._going_back.add(delivery_tag)
            self._send_back()

    def _send_back(self) -> None:
        """A Redis that refuses is asked again later, and so long it is in hand; Celery would end the worker."""
        for tag in list(self._going_back):
            with self.pipe_or_acquire() as pipe:
                try:
                    self._put_back(pipe, tag, self._delivered[tag], leftmost=True)
                except ResponseError as refused:
                    log.warning("the broker takes nothing back", action="delivery_kept", error=str(refused))
                    return
            self._going_back.discard(tag)
            virtual.QoS.ack(self, tag)

    def restore_unacked(self, client: Any = None) -> None:  # type: ignore[override]  # kombu's Redis has no list of errors
        """Put all of it back on its lists, the oldest as the next to be read. Raises what the connection says.

        Whether or not it is noted: the note may be lost too. What runs now, or was put back and only the answer is
        lost, comes twice: that changes nothing.
        """
        self._flush()
        self._going_back.clear()  # with all others
        with self.channel.conn_or_acquire(client) as redis_client:
            while self._delivered:
                tag, message = next(reversed(self._delivered.items()))
                self._put_back(redis_client.pipeline(), tag, message)
                del self._delivered[tag]

    def _put_back(self, pipe: Any, tag: str, message: Any, *, leftmost: bool = False) -> None:
        self._remove_from_indices(tag, pipe)
        if tag not in self._done:
            info = message.delivery_info
            self.channel._do_restore_message(message._raw, info["exchange"], info["routing_key"], pipe, leftmost)
        pipe.execute()


def take_over(mine: virtual.QoS, client: Any) -> None:
    """Put back what the connections before this one had in hand when they were lost."""
    for hand in [hand for hand in HANDS if hand.channel.connection is not mine.channel.connection]:
        if hand._delivered:
            messages = len(hand._delivered)
            hand.restore_unacked(client)
            log.warning("put back: what the lost connection had in hand", action="delivery_put_back", messages=messages)
        HANDS.remove(hand)


def _noted(message: Any) -> str:
    info = message.delivery_info
    return dumps([message._raw, info["exchange"], info["routing_key"]])
