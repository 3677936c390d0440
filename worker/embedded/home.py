"""The private folder of the embedded servers: whose it is, who may change it now, and what it remembers."""

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt, TypeAdapter, ValidationError

from worker.errors import Permanent

MARKER = ".redirect-worker"
LOCK = ".lock"
MEMORY = "servers.json"


class ForeignHome(Permanent):
    """This folder is not ours; set REDIRECT_HOME to a folder of your own, or to one that does not exist yet."""


class MemoryLost(Permanent):
    """servers.json cannot be read; stop the servers by their process ids, then remove the file."""


@dataclass(frozen=True)
class Record:
    """What `servers.json` keeps of one server. `url` holds the password; it and `port` outlive a stop, `pid` does not.

    `started` is in the unit of `processes.birth`.
    """

    port: PositiveInt
    url: str
    pid: PositiveInt | None = None
    started: float | None = None


def claim(home: Path) -> Path:
    """The real path of `home`, which is made (0700) when it is missing. Raises ForeignHome."""
    home = home.resolve()
    if not home.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_foreign(home)
    return home


def refuse_foreign(home: Path) -> None:
    """Raise ForeignHome unless `home` is a folder of this account, empty or marked as ours. Changes nothing."""
    if not home.is_dir():
        raise ForeignHome(f"{home} is not a folder. {ForeignHome.__doc__}")
    facts = home.stat()
    if facts.st_uid != os.geteuid():
        raise ForeignHome(f"{home} belongs to uid {facts.st_uid}, and we are uid {os.geteuid()}. {ForeignHome.__doc__}")
    if facts.st_mode & stat.S_IWOTH:
        raise ForeignHome(f"{home} can be written by every account. {ForeignHome.__doc__}")
    names = {entry.name for entry in home.iterdir()}
    # The lock comes before the marker: a start that has just begun elsewhere shows only the lock.
    if names - {LOCK} and MARKER not in names:
        raise ForeignHome(f"{home} holds files, but no {MARKER}. {ForeignHome.__doc__}")


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Only one process at a time changes `home`; the others wait here. A killed process lets go by dying."""
    descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (home / MARKER).touch(mode=0o600)
        yield
    finally:
        os.close(descriptor)


def recall(home: Path) -> dict[str, Record]:
    """The servers that were ever started under `home`, by name. Raises MemoryLost."""
    path = home / MEMORY
    if not path.exists():
        return {}
    try:
        return TypeAdapter(dict[str, Record]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise MemoryLost(f"{path}: {MemoryLost.__doc__}\n{error}") from error


def remember(home: Path, changes: Mapping[str, Record]) -> None:
    """Add `changes` to the memory. Only under `locked`."""
    records = {**recall(home), **changes}
    write_private(home / MEMORY, TypeAdapter(dict[str, Record]).dump_json(records, indent=2))


def write_private(path: Path, content: bytes) -> None:
    """Put `content` into `path` (0600): a reader sees the old file or the new one, never a part."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
