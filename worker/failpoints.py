"""Named places where a fault test kills the whole process group. REDIRECT_FAILPOINT arms one; else they are nothing.

`before_commit` dies where it is first reached, `before_commit@20` where one process reaches it for the 20th time.
config/settings.py refuses it wherever it might be production.
"""

import os
import signal
from collections.abc import Callable
from itertools import count

NAMES = (
    "before_commit",
    "after_pop_before_note",
    "after_delivery",
    "after_commit_before_dispatch",
    "after_dispatch_before_ack",
    "mid_effect_cache",
    "mid_effect_websocket",
    "mid_effect_record",
    "after_write_before_settle",
    "mid_sweep",
    "intake_after_take_before_publish",
    "intake_after_publish_before_ack",
    "intake_after_publish_before_delete",
)


def _nothing(name: str) -> None:
    """What every failpoint is when none is armed."""


def armed(failpoint: str) -> Callable[[str], None]:
    """What to call at each place: it ends all processes of the group at this one, as a lost machine would.

    Raises ValueError for a name that no place has.
    """
    wanted, _, number = failpoint.partition("@")
    if wanted not in NAMES or not (number or "1").isdecimal():
        raise ValueError(f"REDIRECT_FAILPOINT should be one of {', '.join(NAMES)}, with @N for the Nth time")
    times, fatal = count(1), int(number or 1)

    def reached(name: str) -> None:
        if name == wanted and next(times) == fatal:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    return reached


reach = armed(os.environ["REDIRECT_FAILPOINT"]) if os.environ.get("REDIRECT_FAILPOINT") else _nothing
