"""The room where redirects wait for a process (worker/guard/grouping.py)."""

from types import SimpleNamespace

from worker.guard.grouping import WaitingRoom


def test_in_a_closed_room_nobody_calls_for_a_process() -> None:
    """A message that comes while the worker is being told to go waits to be given back, and is not run."""
    called: list[object] = []
    room = WaitingRoom(called.append)
    room.close()
    back: list[bool] = []
    message = SimpleNamespace(reject_log_error=lambda _log, _errors, requeue: back.append(requeue))
    room.enter(SimpleNamespace(request_dict={}, message=message))
    assert called == []
    room.give_back(())
    assert back == [True]
