"""Homes for embedded servers that are cleared away, and questions to the servers in them."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest
from redis import Redis

import worker
from worker import embedded

ROOT = Path(worker.__file__).parents[1]
SERVERS = {"postgres", "broker", "cache"}
STARTER = """
import sys
from pathlib import Path
from worker import embedded
print(sorted(embedded.start(Path(sys.argv[1]), sys.argv[2].split(), durable=False).items()), flush=True)
sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

NewHome = Callable[[], Path]
SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


OURS = "embedded-servers"  # how the name of every folder begins in which these tests start something


@pytest.fixture(scope="module", autouse=True)
def nothing_left_over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails when a process of these tests (other tests have servers too) has outlived them, after ending it."""
    yield
    ours = str(tmp_path_factory.getbasetemp() / OURS)
    left = [one for one in psutil.process_iter(["cmdline"]) if any(ours in word for word in one.info["cmdline"] or ())]
    for process in left:
        process.kill()
    assert [process.info["cmdline"] for process in left] == []


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewHome]:
    """Homes that do not exist yet; whatever runs in them is stopped at the end."""
    with ExitStack() as homes:

        def another() -> Path:
            home = tmp_path_factory.mktemp(OURS) / "home"
            homes.callback(discard, home)
            return home

        yield another


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for most tests, with a path that is long, has spaces, and is not ASCII."""
    parent = tmp_path_factory.mktemp(OURS)
    home = parent / "ein Zuhause für خانه" / ("long" * 40) / "home"
    yield home
    discard(home)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp(OURS)


def discard(home: Path) -> None:
    """Stop what runs in `home`, and remove the public folder of its database, if it needed one."""
    embedded.stop(home)
    if (home / "postgres").is_symlink():
        shutil.rmtree((home / "postgres").resolve().parent, ignore_errors=True)


@pytest.fixture
def urls(home: Path) -> dict[str, str]:
    """The URLs of the three servers of `home`, which run."""
    return embedded.start(home, durable=False)


@contextmanager
def sleeper(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """An innocent process whose command line ends with `words`."""
    with subprocess.Popen([*SLEEP, *words]) as process:
        try:
            yield process
            assert process.poll() is None, "somebody ended an innocent process"
        finally:
            process.kill()


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url, connect_timeout=2)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        connection.commit()
        return cursor.fetchall() if cursor.description else []


def client(url: str) -> Redis:
    return Redis.from_url(url, decode_responses=True, socket_timeout=2)


def pids(home: Path) -> dict[str, int | None]:
    return {one.name: one.pid for one in embedded.status(home) if one.running}


def pid(home: Path, name: str) -> int:
    found = pids(home)[name]
    assert found
    return found


def memory(home: Path) -> dict[str, dict[str, object]]:
    read: dict[str, dict[str, object]] = json.loads((home / "servers.json").read_text())
    return read


def write_memory(home: Path, name: str, **facts: object) -> None:
    noted = memory(home)
    noted[name] |= facts
    (home / "servers.json").write_text(json.dumps(noted))


def permissions(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode and owner of everything on the way to `path`."""
    seen = {parent: parent.stat() for parent in path.parents if parent.exists()}
    return {parent: (facts.st_mode, facts.st_uid, facts.st_gid) for parent, facts in seen.items()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def starter(home: Path, *names: str) -> subprocess.Popen[str]:
    """Another program that starts servers, says so in one line, and lives on until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(home), " ".join(names)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
