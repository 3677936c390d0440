"""No password on a command line: every account of the machine can read those."""

import os
import subprocess
from pathlib import Path

import psutil
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from tests import ops
from tests.eventually import eventually
from worker.embedded.processes import free_port
from worker.embedded.valkey import _binary

PASSWORD = "hunter2-of-compose"


def test_composes_valkey_reads_its_password_from_elsewhere(tmp_path: Path) -> None:
    """Its own command, but for a port and a folder of the test: the password holds, and is not shown."""
    service = yaml.safe_load((ops.OPS / "compose/compose.yaml").read_text())["services"]["valkey"]
    port = free_port(None)
    ours = f"port {port}\ndir {tmp_path}\nset-proc-title no\nappendonly yes"
    command = [word.replace("$$", "$").replace("appendonly yes", ours) for word in service["command"]]
    (tmp_path / "valkey-server").symlink_to(_binary())
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VALKEY_PASSWORD": PASSWORD}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: answers(port, PASSWORD), within=20)
            assert not answers(port, "another")
            assert "valkey" in psutil.Process(server.pid).cmdline()[0]
            assert PASSWORD not in "".join(psutil.Process(server.pid).cmdline())
        finally:
            server.kill()


def answers(port: int, password: str) -> bool:
    with Redis(port=port, password=password, socket_timeout=2) as client:
        try:
            return bool(client.ping())
        except (AuthenticationError, RedisError):
            return False


def test_no_command_of_ops_has_a_password_in_it() -> None:
    """No Procfile line, unit, image, Compose or Kubernetes file: neither an option of one nor a variable of one."""
    lines = [line for line in _files().splitlines() if not line.lstrip().startswith(("#", "//"))]
    commands = [
        line for line in lines if any(word in line for word in ("command:", "ExecStart", "CMD", "exec ", "args:"))
    ]
    assert len(commands) > 20
    options = ("--requirepass", "--basic-auth", "--basic_auth", "--broker-api", "--broker_api", "--password", "--auth=")
    assert [line for line in lines if any(option in line for option in options)] == []


def _files() -> str:
    kept = {".yaml", ".service", ".conf", ""}
    paths = [path for path in ops.OPS.rglob("*") if path.is_file() and path.suffix in kept]
    return "\n".join(path.read_text() for path in [ops.ROOT / "Procfile", *paths])
