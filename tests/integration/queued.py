"""What a producer has put on the JSON queue of a Redis broker, read without the intake; and producers."""

import json
import os
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from redis import Redis

from worker.json_queue import QUEUE
from worker.messages import unpack


def envelopes(broker: Redis) -> list[dict[str, Any]]:
    """What lies on the queue, the oldest first."""
    return [json.loads(item) for item in reversed(broker.lrange(QUEUE.name, 0, -1))]


def bodies(broker: Redis) -> list[bytes]:
    return [b64decode(envelope["body"]) for envelope in envelopes(broker)]


def arrived(broker: Redis) -> list[dict[str, Any]]:
    """The events on the queue, as the intake reads them."""
    unpacked = [unpack(body) for body in bodies(broker)]
    assert not [refused for one in unpacked for refused in one.refused]
    return [json.loads(event) for one in unpacked for event in one.events]


def connections(broker: Redis) -> set[str]:
    """The ids of what is connected, but for the one that asks."""
    return {each["id"] for each in broker.client_list()} - {str(broker.client_id())}


def numbered(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"conversation_id": f"c{number}", "destination": "billing", **fields} for number in range(count)]


FORK = """
import os, sys
from psutil import Process
from worker.client import RedirectClient
client = RedirectClient(sys.argv[1], timeout=10)
client.redirect("parent-1", "billing")
before = Process().net_connections()
child = os.fork()
if not child:
    client.redirect("child", "billing")
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
client.redirect("parent-2", "billing")
assert before == Process().net_connections() != [], before
"""


def run(script: str, *arguments: str) -> Sequence[str]:
    """What the script prints, in a process that knows no database."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def sending() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "redirect-client"]
