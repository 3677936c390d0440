"""A resolver that a test can break: loaded into a process by tests (`--include tests.names`).

The file named by REDIRECT_TEST_NAMES says how it is: `gone`, or seconds that each answer takes. libpq asks the system
by itself, past this.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

_MOOD = Path(os.environ["REDIRECT_TEST_NAMES"])
_ask = socket.getaddrinfo


def _asked(host: Any, *args: Any, **kwargs: Any) -> Any:
    mood = _MOOD.read_text()
    if mood == "gone":
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    time.sleep(float(mood or 0))
    return _ask(host, *args, **kwargs)


socket.getaddrinfo = _asked
