"""What must be as before when a process has been fed nonsense, and where each input can be found again."""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psutil

from tests.eventually import eventually
from tests.integration.ledgers import execute
from tests.poison_fuzz import TOKEN
from tests.service import Process, Service

# What was no text, data of a CloudEvent that is no JSON, and a body whose envelope does not say any more what it is.
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}")


@dataclass
class Watched:
    """A process of ours, with the children that it had when it was ready."""

    process: Process
    children: set[int] = field(default_factory=set)

    def is_as_before(self, *never_said: str) -> bool:
        """It lives, with the same children, and has not said any of this. As assertions, so that it is said what."""
        log = self.process.log.read_text(errors="replace")
        assert self.process.running, log[-3000:]
        assert {child.pid for child in self._psutil.children()} == self.children, log[-3000:]
        said = [
            line[:300] + " ... " + line[-1500:]
            for line in log.splitlines()
            if any(words in line for words in never_said)
        ]
        assert not said, [f"{line[:300]} ... {line[-1500:]}" for line in said[:3]]
        return True

    @property
    def _psutil(self) -> psutil.Process:
        return psutil.Process(self.process.popen.pid)

    def memory(self) -> int:
        return int(self._psutil.memory_info().rss)

    def files(self) -> int:
        return int(self._psutil.num_fds())


def watched(process: Process, children: int = 0) -> Watched:
    """Once it has so many."""
    found = psutil.Process(process.popen.pid)
    eventually(lambda: len(found.children()) == children)
    return Watched(process, {child.pid for child in found.children()})


def all_kept(service: Service, given: Mapping[str, object]) -> None:
    """Each token is in a redirect or in a rejected event, at the latest when all has been looked at.

    `given` is the input of each token.
    """
    missing = set(given)

    def found() -> bool:
        missing.difference_update(TOKEN.findall("".join(_texts(service))))
        assert not missing, {token: given[token] for token in sorted(missing)}
        return True

    if missing:
        eventually(found, within=60, every=0.2)


def _texts(service: Service) -> Iterable[str]:
    """All of the redirects as text; the rejected events with all base64 in them decoded, whatever its encoding."""
    yield from (str(row) for row in service.rows("SELECT redirects::text FROM redirects"))
    for row in service.rejected():
        raw = b"".join(_decoded(found) for found in _BASE64.findall(row["body"]))
        yield row["body"] + raw.replace(b"\x00", b"").decode("latin-1")


def _decoded(found: str) -> bytes:
    try:
        return base64.b64decode(found + "==")
    except ValueError:
        return b""  # it only looked like base64


def forget(service: Service) -> None:
    """What earlier rounds have left in the tables."""
    execute(service, "DELETE FROM redirects", "DELETE FROM rejected_events")
