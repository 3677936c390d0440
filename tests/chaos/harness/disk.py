"""A small disk for PostgreSQL's data, to be filled to the last byte."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.chaos.harness.servers import Embedded

# In a mount namespace of its own, nobody else sees the disk, and it is gone with the last process there.
_NAMESPACE = ("unshare", "--mount")
_MOUNT = """
    mount -t tmpfs -o size="$3",mode=700 none "$2" && cp -a "$1/." "$2/" && mount --bind "$2" "$1" && echo ready &&
    read -r _
"""
_START = "import pathlib, sys; from worker import embedded; embedded.start(pathlib.Path(sys.argv[1]), ['postgres'])"


def possible() -> bool:
    """Whether this account may mount something where nobody else sees it."""
    with suppress(OSError):
        return subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    return False


class SmallDisk:
    """`database` runs on it inside the block, with the data that it had; afterwards it is stopped for good."""

    def __init__(self, database: Embedded, size: str = "128m") -> None:
        self._database, self._size = database, size
        self._data = (database.home / "postgres").resolve()

    def __enter__(self) -> Self:
        self._database.stop()
        place = self._data.with_name("disk")
        place.mkdir()
        words = ("sh", "-c", _MOUNT, "sh", str(self._data), str(place), self._size)
        self._keeper = subprocess.Popen([*_NAMESPACE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "ready\n"
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._database.stop()
        self._keeper.communicate()

    def start(self) -> None:
        """PostgreSQL, if it has ended."""
        inside = ("nsenter", "--mount", f"--target={self._keeper.pid}", f"--wd={Path.cwd()}")
        subprocess.run([*inside, sys.executable, "-c", _START, str(self._database.home)], check=True, timeout=120)

    @property
    def _ballast(self) -> Path:
        return Path(f"/proc/{self._keeper.pid}/root{self._data}/ballast")

    def fill(self) -> None:
        with suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
            while True:
                ballast.write(b"\0" * 4096)

    def free(self) -> None:
        self._ballast.unlink()
