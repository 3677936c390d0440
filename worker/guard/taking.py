"""`redirects` on a Redis broker: at no moment a message is nowhere.

kombu takes a message off its list (BRPOP) and notes it in a second step. Whatever ends in between, the worker, the
connection or Redis itself, loses it. Here it is moved to a second list (BLMOVE), which it leaves in the step that notes
it. What stays on that list has nobody, and goes back. Where more wait, several are moved and noted at once.
(docs/decisions/0016-no-moment-at-which-a-message-is-nowhere.md)
"""

import time
from collections.abc import Sequence
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ResponseError

from worker.guard.envelope import delivered, readable

log = structlog.get_logger(__name__)

QUEUE = "redirects"
# One list for all workers. It holds what was moved until it is noted, a millisecond later.
TAKEN = "redirects.taken"
# Messages that are moved and noted together, at most: the words with Redis cost little more for so many than for one.
TOGETHER = 50
# Seconds in which that should be done. On a slow line so many may never come before the connection's own time is over.
BRISK = 0.5
# Seconds after which a message on it has nobody. One that is only slow runs it twice, which changes nothing.
ABANDONED_AFTER = 10.0
# Seconds for which Redis is asked to wait.
WAIT = 1

# First there, then away: a full Redis refuses the first.
_GIVE_BACK = """
redis.call('RPUSH', KEYS[2], ARGV[1])
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then redis.call('RPOP', KEYS[2]) end
"""


class Taking:
    """How a channel reads QUEUE: on a connection of its own, beside that on which kombu waits for the other queues."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.client = channel._create_client(asynchronous=True)
        # By priority: 0, which nearly everybody uses, and 3, 6 and 9.
        self._first, *self._others = [channel._q_for_pri(QUEUE, step) for step in channel.priority_steps]
        self._looked_at_others = time.monotonic()
        # How many waited when the last was noted, and how many to move at once: twice as many each time, as TCP does.
        self._waiting = 0
        self._at_once = 1
        # The command that Redis has not answered yet, and since when.
        self.asked: str | None = None
        self._asked_at = 0.0
        self._refused = False

    def ask(self) -> None:
        """For the next message. Redis that is full refuses to move one; then once as kombu does it."""
        if self._refused:
            command = ("BRPOP", self._first, *self._others, WAIT)
        else:
            command = ("BLMOVE", self._first, TAKEN, "RIGHT", "LEFT", WAIT)
        self.asked, self._asked_at = command[0], time.monotonic()
        self.client.connection.send_command(*command)

    def read(self) -> None:
        """Deliver what Redis answers. Raises Empty, or what the connection says."""
        asked, self.asked = self.asked, None
        if asked is None:  # closed by Redis while nothing was asked
            self.client.connection.disconnect()
            raise Empty
        try:
            answer = self.client.parse_response(self.client.connection, asked)
        except self.channel.connection_errors:
            self.client.connection.disconnect()
            raise
        except ResponseError as refused:
            if asked == "BRPOP":
                raise
            self._refuse(refused)
            raise Empty from None
        if asked == "BRPOP":
            self._refused = False
            self._deliver(answer[1:] if answer else [], moved=False)
            return
        if answer:
            began = time.monotonic()
            self._deliver([answer, *self._move([self._first] * self._more())], moved=True)
            brisk = time.monotonic() - began < BRISK
            self._at_once = min(2 * self._at_once, TOGETHER) if brisk else max(1, self._at_once // 2)
        self._look_at_others(idle=not answer)

    def _more(self) -> int:
        """How many to move beside the one that has come: of those that wait, as many as the prefetch has room for."""
        if QUEUE not in self.channel.active_queues:  # cancelled: this one goes back too
            return 0
        room = self.channel.qos.can_consume_max_estimate()
        return max(0, min(self._waiting, self._at_once - 1, TOGETHER if room is None else room - 1))

    def _look_at_others(self, *, idle: bool) -> None:
        """Redis waits for one list. For a message of another priority it takes up to WAIT."""
        if not idle and time.monotonic() - self._looked_at_others < WAIT:
            return
        self._looked_at_others = time.monotonic()
        self._deliver(self._move(self._others), moved=True)

    def _move(self, names: Sequence[str]) -> list[bytes]:
        """One message of each of these lists, as far as there is one. Redis that is full refuses."""
        if not names:
            return []
        with self.channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.lmove(name, TAKEN, "RIGHT", "LEFT")
            answers = pipe.execute(raise_on_error=False)
        if refused := next((answer for answer in answers if isinstance(answer, ResponseError)), None):
            self._refuse(refused)
        return [answer for answer in answers if isinstance(answer, bytes)]

    def _refuse(self, refused: ResponseError) -> None:
        self._refused = True
        log.warning("the broker moves no message", action="taking_refused", error=str(refused))

    def _deliver(self, items: Sequence[bytes], *, moved: bool) -> None:
        if not items:
            return
        messages = [loads(bytes_to_str(readable(item))) for item in items]
        for message in messages:
            message["properties"] = delivered(message["properties"], QUEUE)
        held = [self.channel.Message(message, channel=self.channel) for message in messages]
        self._waiting = self.channel.qos.hold(held, items if moved else ())
        for message in messages:
            self.channel.connection.hand_on(message, QUEUE)

    def check(self) -> None:
        """A connection whose other end has gone without a word never answers."""
        overdue = WAIT + self.channel.health_check_interval
        if self.asked is None or time.monotonic() - self._asked_at < overdue:
            return
        connection = self.client.connection
        if connection._sock is not None and not redis._socket_readable(connection._sock):
            log.warning("the broker does not answer", action="broker_silent", seconds=overdue)
            connection.disconnect()


class Poller(redis.MultiChannelPoller):
    """kombu's poller, which waits for what is asked here too."""

    _TAKE = "TAKE"

    def on_poll_start(self) -> None:
        super().on_poll_start()
        for channel in self._channels:
            if QUEUE in channel.active_queues and channel.qos.can_consume():
                self._ask(channel, channel.taking)

    def _ask(self, channel: Any, taking: Taking) -> None:
        registered = channel, taking.client, self._TAKE
        if not self._client_registered(*registered):
            taking.asked = None
            self._register(*registered)
        if taking.asked is None:
            taking.ask()

    def on_readable(self, fileno: int) -> None:
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if channel is not None and kind == self._TAKE:
            channel.taking.read()
        else:
            super().on_readable(fileno)

    def maybe_check_brpop_health(self) -> None:
        super().maybe_check_brpop_health()
        for channel in self._channels:
            if QUEUE in channel.active_queues:
                channel.taking.check()


class Abandoned:
    """What has nobody, as one worker sees it: on the list TAKEN whenever it looked."""

    def __init__(self) -> None:
        self._since: dict[bytes, float] = {}

    def give_back(self, client: Any) -> None:
        """Put it back on the queue, to be the next. Raises what Redis says."""
        now = time.monotonic()
        self._since = {item: self._since.get(item, now) for item in client.lrange(TAKEN, 0, -1)}
        for item in [item for item, since in self._since.items() if now - since >= ABANDONED_AFTER]:
            client.eval(_GIVE_BACK, 2, TAKEN, QUEUE, item)
            del self._since[item]
            log.warning("put back: it was taken, and has nobody", action="delivery_put_back", messages=1)
