"""Whose folders the embedded servers use, and which account runs them: nobody else's business is touched."""

# ruff: noqa: F401, F811 -- fixtures are imported, and then asked for by naming them
import os
import pwd
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.embedded_homes import (
    SERVERS,
    NewHome,
    as_root,
    folder,
    home,
    mode,
    new_home,
    nothing_left_over,
    permissions,
    pid,
    query,
    urls,
)
from worker import embedded
from worker.embedded import accounts, postgres, valkey


def test_nothing_is_made_by_asking(folder: Path) -> None:
    """addresses, status and stop of a missing or empty home answer and leave no trace; nor does a wrong name."""
    home = folder / "home"
    assert embedded.addresses(home) == {}
    assert [one.running for one in embedded.status(home)] == [False] * 3
    assert embedded.stop(home) == []
    with pytest.raises(ValueError, match="mysql"):
        embedded.start(home, ["mysql"])
    assert embedded.stop(folder) == []
    assert list(folder.iterdir()) == []


def test_a_home_where_a_start_has_just_begun_is_ours(folder: Path) -> None:
    """A folder that holds nothing but the lock is no foreign folder: another start is about to mark it."""
    (folder / ".lock").touch()
    assert embedded.addresses(folder) == {}


@pytest.mark.parametrize("verb", [embedded.start, embedded.stop, embedded.status, embedded.addresses])
def test_a_foreign_home_is_refused(folder: Path, verb: Callable[[Path], object]) -> None:
    """A folder with other people's files, a file, or a folder open to all is refused and stays as it was."""
    (file := folder / "thesis.txt").write_text("mine")
    (everyones := folder / "everyones").mkdir()
    everyones.chmod(0o777)
    for foreign in (folder, file, everyones):
        with pytest.raises(embedded.ForeignHome, match=str(foreign)):
            verb(foreign)
    assert {path.name for path in folder.rglob("*")} == {"thesis.txt", "everyones"}
    assert mode(everyones) == 0o777


@as_root
def test_a_home_of_another_account_is_refused(folder: Path) -> None:
    """Not even root takes over a folder that belongs to somebody else, empty or not."""
    (theirs := folder / "theirs").mkdir()
    os.chown(theirs, 1, 1)
    with pytest.raises(embedded.ForeignHome, match="belongs to uid 1"):
        embedded.start(theirs)
    assert list(theirs.iterdir()) == []


def test_no_permission_changes(new_home: NewHome) -> None:
    """No folder on the way to the home or to the binaries, nor an empty home that was there, changes mode or owner."""
    home = new_home()
    home.mkdir(mode=0o755)
    program = postgres._package() / "pginstall/bin/postgres"
    ways = (home / "any", program / "any", valkey._binary() / "any")
    before = [permissions(way) for way in ways]
    embedded.start(home, durable=False)
    embedded.stop(home)
    assert [permissions(way) for way in ways] == before


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every account can enter, with copies of the programs, in place of the machine's public places."""
    folder = Path(tempfile.mkdtemp(prefix="redirect-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    accounts.copy_for_all(postgres._package(), folder)
    shutil.copy(valkey._binary(), folder)
    package, binary = folder / postgres._package().name, folder / valkey._binary().name
    monkeypatch.setattr(accounts, "PUBLIC_PLACES", (folder,))
    monkeypatch.setattr(postgres, "_package", lambda: package)
    monkeypatch.setattr(valkey, "_binary", lambda: binary)
    yield folder
    shutil.rmtree(folder)


@as_root
def test_without_user_namespaces_nobody_runs_the_database(
    new_home: NewHome, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root falls back to `nobody`, data and programs in a public place; there it restarts, is found, and is stopped."""
    monkeypatch.setattr(accounts, "namespaces_work", lambda *_: False)
    home = new_home()
    before = permissions(home / "any")
    try:
        url = embedded.start(home, ["postgres"], durable=False)["postgres"]
        data = (home / "postgres").resolve()
        assert psutil.Process(pid(home, "postgres")).username() == data.owner() == "nobody"
        assert data.is_relative_to(public)
        assert mode(data) == mode(home) == 0o700
        query(url, "CREATE TABLE kept AS SELECT 42 AS number")
        os.kill(pid(home, "postgres"), signal.SIGKILL)
        assert embedded.start(home, ["postgres"], durable=False) == {"postgres": url}
        assert query(url, "SELECT number FROM kept") == [(42,)]
        assert before.items() <= permissions(home / "any").items()
    finally:
        assert embedded.stop(home) == ["postgres"]
    shutil.rmtree(data.parent)
    with pytest.raises(embedded.ServerFailed, match="is gone"):
        embedded.start(home, ["postgres"])


@as_root
def test_root_runs_the_database_from_its_private_folder(home: Path, urls: dict[str, str]) -> None:
    """Where user namespaces work, root's database stays in root's folder: not a link, owned by root, seen as root's."""
    if not accounts.namespaces_work(home, postgres._package() / "pginstall/bin/postgres"):
        pytest.skip("user namespaces are forbidden here")
    assert not (home / "postgres").is_symlink()
    assert (home / "postgres").stat().st_uid == 0
    assert psutil.Process(pid(home, "postgres")).uids().real == 0


@as_root
def test_an_ordinary_user_needs_nothing_special(public: Path) -> None:
    """An account without any right starts and stops all servers in a folder of its own."""
    nobody = pwd.getpwnam("nobody")
    (place := public / "place").mkdir()
    os.chown(place, nobody.pw_uid, nobody.pw_gid)

    def act() -> None:
        home = place / "home"
        try:
            urls = embedded.start(home, durable=False)
            assert query(urls["postgres"], "SELECT 1") == [(1,)]
            assert psutil.Process(pid(home, "postgres")).username() == "nobody"
            assert embedded.start(home) == urls
        finally:
            assert set(embedded.stop(home)) == SERVERS

    assert forked_as(nobody, act)


def forked_as(account: pwd.struct_passwd, act: Callable[[], None]) -> bool:
    """Whether `act` succeeds as `account`; forked, because that account may not be able to read our Python."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001 -- the child must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
