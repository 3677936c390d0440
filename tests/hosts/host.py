"""The host of tests/hosts/pilito as processes of its own, and states to bring to it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.service import Service
from worker.embedded.processes import free_port
from worker.hosts.pilito.channel import group
from worker.redirects import State
from worker.redis_client import client

SECRET = "a secret of this host, longer than the 32 characters that count"


def state(conversation_id: str = "c1", version: int = 1, destination: str = "billing", **more: Any) -> State:
    """Decided a minute ago, of owner 7."""
    occurred_at = datetime.now(UTC) - timedelta(minutes=1)
    return replace(State(conversation_id, "7", destination, version, occurred_at, "e"), **more)


@dataclass
class Host:
    service: Service
    secret: str = SECRET

    @property
    def environment(self) -> dict[str, str]:
        return self.service.environment | {"DJANGO_SECRET_KEY": self.secret}

    def run(self, code: str) -> str:
        """What this Python prints in the host's Django process."""
        command = [sys.executable, "-m", "tests.hosts.pilito.manage", "shell", "-c", code]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def migrate(self) -> None:
        """Its tables, made by Django."""
        command = [sys.executable, "-m", "tests.hosts.pilito.manage", "migrate"]
        subprocess.run(command, env=self.environment, capture_output=True, timeout=60, check=True)

    def proof(self) -> bytes:
        """Made where the key is: in the host."""
        return bytes.fromhex(
            self.run(
                "from channels.layers import get_channel_layer\n"
                "from worker.hosts.pilito.layer import proof\n"
                "print(proof(get_channel_layer()).hex())"
            )
        )

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its ASGI application behind uvicorn; the address of its WebSockets."""
        port = free_port(None)
        command = ("uvicorn", "tests.hosts.pilito.asgi:application", "--port", str(port), "--ws", "websockets-sansio")
        with self.service.running(*command, ready="Uvicorn running", DJANGO_SECRET_KEY=self.secret):
            yield f"ws://127.0.0.1:{port}"


@contextmanager
def browser(url: str, owner_id: str = "7") -> Iterator[ClientConnection]:
    """An agent's open list."""
    with connect(f"{url}/ws/conversations/{owner_id}/", open_timeout=20) as socket:
        yield socket


def heard(socket: ClientConnection, within: float = 20) -> Any:
    return json.loads(socket.recv(timeout=within))


def unread(owner_id: str = "7", since: float = 0) -> None:
    """Given a browser of this owner, joined so many seconds ago, whose server reads nothing: what is sent stays."""
    client().zadd(f"asgi:group:{group(owner_id)}", {f"specific.of-{owner_id}!one": time.time() - since})


def messages_queued() -> int:
    """What waits in the browsers' channels, or was ever put there while nobody read."""
    return sum(client().zcard(key) for key in client().keys("asgispecific*"))
