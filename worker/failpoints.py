"""Named places where a fault test kills the whole process group; nothing happens unless REDIRECT_FAILPOINT names one.

A test's door, not a setting, hence not in config/settings.py.
"""

import os
import signal

_ARMED = os.environ.get("REDIRECT_FAILPOINT")


def reach(name: str) -> None:
    """Die here with all processes of the group, as on a lost machine, when this failpoint is armed."""
    if name == _ARMED:
        os.killpg(os.getpgrp(), signal.SIGKILL)
