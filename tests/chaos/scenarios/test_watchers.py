"""Browsers that watch, and one that does not listen."""

import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.chaos.harness.watcher import Watcher
from tests.chaos.harness.workload import Workload, sending
from tests.chaos.harness.world import World
from tests.chaos.scenarios import Judge, on_both, scenario
from tests.eventually import eventually

pytestmark = pytest.mark.timeout(240)
DEAF, OTHERS = 20, 3
# Bytes that the gateway may grow by. What is due to one who does not read is at most a frame for each of 200
# conversations; the rest is what a Python process takes now and then.
GROWTH = 30_000_000


@contextmanager
def deaf(port: int) -> Iterator[socket.socket]:
    """A WebSocket client that never reads: its window is full soon, and stays so."""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", port))
        key = b64encode(b"0123456789abcdef").decode()
        lines = ["GET /ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"]
        plain.sendall("\r\n".join([*lines, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", ""]).encode())
        yield plain


def stuck(one: socket.socket) -> int:
    """Bytes that the kernel holds for this client on the gateway's side, because its window is full."""
    ours, theirs = one.getsockname()[1], one.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (int(local[-4:], 16), int(remote[-4:], 16)) == (theirs, ours):
            return int(queues.partition(":")[0], 16)
    return 0


def versions(world: World) -> dict[str, int]:
    states = world.direct.rows("SELECT conversation_id, version FROM conversation_states")
    return {row["conversation_id"]: row["version"] for row in states}


def up_to_date(watcher: Watcher, versions: dict[str, int]) -> bool:
    """Whether it shows these, or what came after them."""
    behind = {name: version for name, version in versions.items() if watcher.versions.get(name, 0) < version}
    assert behind == {}, f"{len(behind)} of {len(versions)} behind"
    return True


@scenario(35, "WebSocket clients that never read")
@on_both
def test_the_others_are_not_held_up(world: World, judge: Judge) -> None:
    """Twenty whose windows are full: three others keep their connections and are told all, and memory is bounded."""
    world.workload = Workload(world.seed, conversations=500)
    world.start_all()
    assert world.watcher is not None
    port = world.watcher.port
    gateway = psutil.Process(world.running("gateway")[0].popen.pid)
    with ExitStack() as stack:
        others = [stack.enter_context(Watcher(port)) for _ in range(OTHERS)]
        with sending(world.producer, world.workload, every=0.1, batch=10) as sent:
            eventually(lambda: len(world.direct.redirects()) > 500)
            eventually(lambda: all(other.connections == 1 for other in others))
            before = gateway.memory_info().rss
            silent = [stack.enter_context(deaf(port)) for _ in range(DEAF)]
            world.faults["never reads"] += DEAF
            eventually(lambda: all(stuck(one) for one in silent))
            seen = len(sent)
            eventually(lambda: len(sent) > seen + 1000)
            holds = versions(world)
            eventually(lambda: all(up_to_date(other, holds) for other in others), within=20)
            assert any(stuck(one) for one in silent)
        judge(world)
        eventually(lambda: all(up_to_date(other, versions(world)) for other in others), within=20)
        assert [other.connections for other in (world.watcher, *others)] == [1] * (OTHERS + 1)
        assert gateway.memory_info().rss - before < GROWTH
