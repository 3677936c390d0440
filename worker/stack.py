"""The processes of the Procfile, and the environment they share."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from honcho.environ import parse_procfile

ROOT = Path(__file__).resolve().parent.parent


def processes() -> dict[str, str]:
    """Process type -> command, as the Procfile has them, without `release`, which runs once and ends."""
    commands: dict[str, str] = parse_procfile((ROOT / "Procfile").read_text()).processes
    return {name: command for name, command in commands.items() if name != "release"}


def environment(urls: Mapping[str, str], **more: str) -> dict[str, str]:
    """This process's environment, with this Python's commands first on the path, and the URLs and settings given."""
    commands = str(Path(sys.executable).parent)
    path = os.pathsep.join([commands, os.environ.get("PATH", os.defpath)])
    # Celery warns root once per process; the worker only takes JSON, which is what the warning is about.
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "C_FORCE_ROOT": "1", **urls, **more}


def free_port(wanted: int) -> int:
    """`wanted`, if nobody listens there on loopback, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("there is no free port on 127.0.0.1")


def listens(port: int) -> bool:
    """Whether something answers on this port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
