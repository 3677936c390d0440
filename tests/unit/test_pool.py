"""The pool: what a time limit may interrupt."""

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import _task_stack  # type: ignore[attr-defined]

from worker.guard.pool import _soft_time_limit


def test_a_soft_time_limit_interrupts_a_task_and_nothing_else() -> None:
    """Between two tasks a process writes an answer or reads a call, and half of one is none."""
    _soft_time_limit()
    _task_stack.push(object())
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            _soft_time_limit()
    finally:
        _task_stack.pop()
