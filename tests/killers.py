"""What kills or hangs the process that touches it: loaded into a worker by tests (`--include tests.killers`)."""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from celery.concurrency.asynpool import AsynPool
from celery.signals import task_prerun, task_received

from tests.culprits import BUGGY, DEADLY, GREEDY, PACE, SLOW, STUCK
from worker.db.ledger import Accepted, Ledger
from worker.db.records import BundledRecords
from worker.redirects import State


class Store(BundledRecords):
    """The bundled records, but a conversation whose id begins with "killer" is the end of the process."""

    def save(self, states: Sequence[State]) -> Mapping[str, Exception]:
        if any(state.conversation_id.startswith(DEADLY) for state in states):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().save(states)


def _event_ids(events: Sequence[object]) -> list[str]:
    return [str(event["event_id"]) for event in events if isinstance(event, dict)]


def _tell(what: str) -> None:
    os.write(sys.stderr.fileno(), f"{what}\n".encode())


@task_received.connect
def _in_the_main_process(request: Any, **_: Any) -> None:
    for event_id in _event_ids(request.args):
        _tell(f"taken {event_id}")


@task_prerun.connect
def _before_each_task(args: Any, **_: Any) -> None:
    """What an event does is in its event_id; each meeting is told in the worker's log."""
    for event_id in _event_ids(args):
        _tell(f"met {event_id}")
        if event_id.startswith(DEADLY):
            os.kill(os.getpid(), signal.SIGKILL)
        if event_id.startswith(STUCK):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # deaf to the soft time limit
            threading.Event().wait()


def _up(self: Any, pid: int) -> None:
    """From now on the worker gives calls to this process; " ready." it says sooner."""
    _alive(self, pid)
    _tell(f"up {pid}")


def _haunted(self: Ledger, raws: Sequence[object]) -> Accepted:
    if any(event_id.startswith(BUGGY) for event_id in _event_ids(raws)):
        raise ZeroDivisionError("a bug of ours")
    if any(event_id.startswith(GREEDY) for event_id in _event_ids(raws)):
        raise MemoryError
    threading.Event().wait(PACE * sum(event_id.startswith(SLOW) for event_id in _event_ids(raws)))
    return _accept(self, raws)


_alive, AsynPool.on_process_alive = AsynPool.on_process_alive, _up  # type: ignore[method-assign]
_accept, Ledger.accept = Ledger.accept, _haunted  # type: ignore[method-assign]
