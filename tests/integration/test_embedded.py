"""The embedded servers, with real processes: started, found again, stopped, and nobody else's business touched."""

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import psycopg2
import pytest
from redis import Redis, RedisError

import worker
from worker import embedded
from worker.embedded import accounts, postgres, processes, valkey
from worker.embedded.postgres import Postgres
from worker.embedded.valkey import Valkey

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


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewHome]:
    """Homes that do not exist yet; whatever runs in them is stopped at the end."""
    with ExitStack() as homes:

        def another() -> Path:
            home = tmp_path_factory.mktemp("embedded") / "home"
            homes.callback(embedded.stop, home)
            return home

        yield another


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for most tests, with a path that is long, has spaces, and is not ASCII."""
    parent = tmp_path_factory.mktemp("embedded")
    home = parent / "ein Zuhause für خانه" / ("long" * 40) / "home"
    yield home
    embedded.stop(home)


@pytest.fixture
def urls(home: Path) -> dict[str, str]:
    """The URLs of the three servers of `home`, which run."""
    return embedded.start(home, durable=False)


@pytest.fixture
def sleeper(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """An innocent process; its command line ends with the test's parameter, if it has one."""
    command = [sys.executable, "-c", "import time; time.sleep(600)", *getattr(request, "param", [])]
    with subprocess.Popen(command) as process:
        yield process
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
    """Mode and owner of every folder on the way to `path`, from the root."""
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


def test_every_server_answers_at_its_url(urls: dict[str, str]) -> None:
    """PostgreSQL and both Valkeys answer at the URLs that start returns, whatever the path of the home."""
    assert set(urls) == SERVERS
    assert query(urls["postgres"], "SELECT current_database(), current_user") == [("redirect", "redirect")]
    for name in ("broker", "cache"):
        with client(urls[name]) as redis:
            assert redis.ping()


def test_text_sorts_alike_everywhere(urls: dict[str, str]) -> None:
    """The database is UTF-8 with PostgreSQL's own locale, so the machine's locale has no say."""
    assert query(urls["postgres"], "SHOW server_encoding") == [("UTF8",)]
    locale = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'redirect'"
    assert query(urls["postgres"], locale) == [("b", "C.UTF-8")]
    assert query(urls["postgres"], "SELECT upper('é')") == [("É",)]


@pytest.mark.parametrize("name", ["postgres", "broker", "cache"])
@pytest.mark.parametrize("password", [":wrong@", "@"])
def test_a_wrong_password_is_refused(urls: dict[str, str], name: str, password: str) -> None:
    """Nobody gets in with a wrong password, or with none."""
    scheme, _, rest = urls[name].partition("://")
    user, _, address = rest.partition(":")[0], *rest.partition("@")[1:]
    url = f"{scheme}://{user}{password}{address}"
    if name == "postgres":
        with pytest.raises(psycopg2.OperationalError, match=r"password authentication failed|no password supplied"):
            query(url, "SELECT 1")
        return
    with client(url) as redis, pytest.raises(RedisError, match=r"(?i)authenticat|password"):
        redis.ping()


def test_only_this_machine_is_listened_to(home: Path, urls: dict[str, str]) -> None:
    """Each server listens on 127.0.0.1 and its own port, and on nothing else: no other address, no unix socket."""
    for name, number in pids(home).items():
        connections = psutil.Process(number).net_connections("all")
        listening = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN]
        assert listening == [("127.0.0.1", memory(home)[name]["port"])]
        assert [one for one in connections if one.family == socket.AF_UNIX] == []


def test_passwords_are_private(home: Path, urls: dict[str, str]) -> None:
    """No command line shows a password, and what holds one can be read by its owner alone."""
    passwords = [psycopg2.extensions.parse_dsn(urls["postgres"])["password"]]
    passwords += [url.split(":")[2].split("@")[0] for name, url in urls.items() if name != "postgres"]
    shown = " ".join(" ".join(psutil.Process(number).cmdline()) for number in pids(home).values())
    assert not [password for password in passwords if password in shown]
    assert mode(home) == mode(home / "log") == mode(home / "postgres") == mode(home / "broker") == 0o700
    assert mode(home / "servers.json") == mode(home / "broker" / "valkey.conf") == 0o600


def test_the_memory_has_the_shape_that_settings_read(home: Path, urls: dict[str, str]) -> None:
    """servers.json names each server's pid, start, port and URL."""
    for name, facts in memory(home).items():
        assert set(facts) == {"pid", "started", "port", "url"}
        assert facts["url"] == urls[name] == embedded.addresses(home)[name]


def test_a_second_start_finds_the_first_ones_servers(home: Path, urls: dict[str, str]) -> None:
    """Starting again starts nothing: same processes, same URLs."""
    before = pids(home)
    said: list[str] = []
    assert embedded.start(home, say=said.append) == urls
    assert pids(home) == before
    assert len([line for line in said if "already runs" in line]) == len(SERVERS)


def test_the_broker_keeps_its_keys_and_every_server_its_url(home: Path, urls: dict[str, str]) -> None:
    """After stop and start the broker's data are there, the cache is empty, and no URL has changed."""
    for name in ("broker", "cache"):
        with client(urls[name]) as redis:
            redis.set("queued", name)
    assert set(embedded.stop(home)) == SERVERS
    assert embedded.start(home, durable=False) == urls
    with client(urls["broker"]) as broker, client(urls["cache"]) as cache:
        assert broker.get("queued") == "broker"
        assert cache.get("queued") is None
        assert broker.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_stop_leaves_no_process(home: Path, urls: dict[str, str]) -> None:
    """Stop ends the servers and all their children; stopping again is no error, and the URLs are not forgotten."""
    parents = [psutil.Process(number) for number in pids(home).values()]
    family = parents + [child for parent in parents for child in parent.children(recursive=True)]
    assert len(family) > len(SERVERS)
    assert set(embedded.stop(home)) == SERVERS
    assert [one for one in family if one.is_running()] == []
    assert embedded.stop(home) == []
    assert embedded.addresses(home) == {}
    assert {one.url for one in embedded.status(home)} == set(urls.values())


def test_one_server_can_be_stopped_alone(home: Path, urls: dict[str, str]) -> None:
    """Stopping the cache leaves the others running."""
    assert embedded.stop(home, ["cache"]) == ["cache"]
    assert set(embedded.addresses(home)) == SERVERS - {"cache"}


def test_a_killed_postgres_recovers(home: Path, urls: dict[str, str]) -> None:
    """After SIGKILL with a busy connection, start replays what was committed in spite of the stale postmaster.pid."""
    query(urls["postgres"], "CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS number")
    with closing(psycopg2.connect(urls["postgres"], async_=True)) as busy:
        psycopg2.extensions.set_wait_callback(None)
        while busy.poll() != psycopg2.extensions.POLL_OK:
            pass
        busy.cursor().execute("SELECT pg_sleep(600)")
        os.kill(pid(home, "postgres"), signal.SIGKILL)
        assert (home / "postgres" / "postmaster.pid").exists()
        assert embedded.start(home, durable=False) == urls
    assert query(urls["postgres"], "SELECT number FROM kept") == [(42,)]


def test_the_servers_outlive_a_killed_starter(new_home: NewHome) -> None:
    """SIGINT and SIGKILL for the starter's whole process group do not reach the servers: they are found again."""
    home = new_home()
    with starter(home, "cache", "broker") as first:
        assert first.stdout
        assert first.stdout.readline()
        before = pids(home)
        os.killpg(first.pid, signal.SIGINT)
        os.killpg(first.pid, signal.SIGKILL)
    embedded.start(home, ["cache", "broker"])
    assert set(before) == {"cache", "broker"}
    assert pids(home) == before


def test_two_starts_at_once_start_one_server_of_each(new_home: NewHome) -> None:
    """Two programs that start the same home at the same moment get the same servers."""
    home = new_home()
    with starter(home, *SERVERS) as one, starter(home, *SERVERS) as other:
        said = {one.communicate()[0], other.communicate()[0]}
    assert one.returncode == other.returncode == 0
    assert said == {f"{sorted(embedded.addresses(home).items())}\n"}
    for server in (
        Postgres(home),
        Valkey(home, "broker", True),
        Valkey(home, "cache", False),
    ):
        running = [one for one in psutil.process_iter(["cmdline"]) if server.proof in (one.info["cmdline"] or ())]
        assert len(running) == 1


@pytest.mark.parametrize("sleeper", [[]], indirect=True)
def test_a_stranger_with_our_pid_is_left_alone(new_home: NewHome, sleeper: subprocess.Popen[bytes]) -> None:
    """A process that was given our server's pid is no server of ours, though pid and start agree."""
    home = new_home()
    embedded.start(home, ["cache"])
    embedded.stop(home)
    write_memory(home, "cache", pid=sleeper.pid, started=processes.birth(sleeper.pid))
    assert embedded.addresses(home) == {}
    assert embedded.stop(home) == []
    write_memory(home, "cache", pid=sleeper.pid, started=processes.birth(sleeper.pid))
    assert embedded.start(home, ["cache"])
    assert pid(home, "cache") != sleeper.pid
    assert embedded.stop(home) == ["cache"]
    assert sleeper.poll() is None


def test_a_later_process_with_our_command_line_is_left_alone(new_home: NewHome) -> None:
    """A process that names our folder but began at another time is not the one that we started."""
    home = new_home()
    embedded.start(home, ["cache"])
    embedded.stop(home)
    proof = Valkey(home, "cache", False).proof
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", proof]) as namesake:
        try:
            write_memory(home, "cache", pid=namesake.pid, started=processes.birth(namesake.pid) - 1)
            assert embedded.stop(home) == []
            assert namesake.poll() is None
        finally:
            namesake.kill()


def test_a_server_that_does_not_listen_to_reason_is_killed(new_home: NewHome) -> None:
    """A frozen server is ended with SIGKILL after the polite signals were tried."""
    home = new_home()
    embedded.start(home, ["cache"])
    frozen = processes.Process(
        pid(home, "cache"), float(str(memory(home)["cache"]["started"])), str(home / "cache/valkey.conf")
    )
    os.kill(frozen.pid, signal.SIGSTOP)
    frozen.end([signal.SIGTERM], patience=0.2)
    assert not frozen.alive()
    assert embedded.status(home)[2].running is False


def test_a_server_in_the_middle_of_an_exec_is_alive(tmp_path: Path) -> None:
    """From the moment it is on record a server counts as alive, also while its command line reads empty."""
    plan = processes.Launch(("sleep", "600"), tmp_path, "600", processes.Account(prefix=("env", "env")))
    for _ in range(20):
        with processes.lifeline(tmp_path / "alive") as line:
            process = processes.launch(plan, tmp_path / "log", line, lambda _: None)
        assert all(process.alive() for _ in range(50))
        process.end([signal.SIGTERM])


def test_a_taken_port_is_replaced(new_home: NewHome) -> None:
    """When a stranger listens on the remembered port, the server moves to another and says so in its URL."""
    home = new_home()
    before = embedded.start(home, ["cache"])["cache"]
    embedded.stop(home)
    with socket.create_server(("127.0.0.1", int(str(memory(home)["cache"]["port"])))):
        after = embedded.start(home, ["cache"])["cache"]
        assert after != before
        with client(after) as redis:
            assert redis.ping()


def test_ports_are_not_those_of_outgoing_connections() -> None:
    """A port that is picked lies below the range that systems take for outgoing connections."""
    assert all(1024 < processes.free_port(None) < 32768 for _ in range(20))


def test_a_server_that_dies_at_its_start_says_why(new_home: NewHome) -> None:
    """The error carries the end of the server's own log."""
    home = new_home()
    embedded.start(home, ["broker"])
    embedded.stop(home)
    (home / "broker/appendonlydir/appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(embedded.ServerFailed, match="Invalid AOF manifest"):
        embedded.start(home, ["broker"])
    assert embedded.addresses(home) == {}


def test_a_starter_that_dies_before_the_note_leaves_no_server(tmp_path: Path) -> None:
    """A server runs only after its pid is on record: one that could not be noted ends by itself."""
    seen: list[processes.Process] = []

    def disk_full(process: processes.Process) -> None:
        seen.append(process)
        raise OSError("no space left")

    plan = processes.Launch(("sleep", "600"), tmp_path, "600")
    with processes.lifeline(tmp_path / "alive") as line, pytest.raises(OSError, match="no space"):
        processes.launch(plan, tmp_path / "log", line, disk_full)
    assert processes.until(lambda: not seen[0].alive(), 5)


def test_data_in_use_by_an_unknown_server_get_no_second_one(home: Path, urls: dict[str, str]) -> None:
    """As long as any process of a server lives, nobody begins another on its data, even if the memory was lost."""
    with pytest.raises(embedded.ServerFailed, match="not on record"), processes.lifeline(home / ".cache.alive", 0.1):
        pass


def test_a_lost_memory_costs_the_password_only(new_home: NewHome) -> None:
    """Without servers.json the database gets a new password and keeps its data; ruins of a killed start are cleared."""
    home = new_home()
    (ruin := home / "postgres.killed").mkdir(parents=True)
    (home / ".redirect-worker").touch()
    url = embedded.start(home, ["postgres"], durable=False)["postgres"]
    assert not ruin.exists()
    query(url, "CREATE TABLE kept AS SELECT 42 AS number")
    embedded.stop(home)
    (home / "servers.json").unlink()
    again = embedded.start(home, ["postgres"], durable=False)["postgres"]
    assert again != url
    assert query(again, "SELECT number FROM kept") == [(42,)]


def test_an_unreadable_memory_is_not_guessed_at(new_home: NewHome) -> None:
    """A damaged servers.json is an error that says what to do."""
    home = new_home()
    embedded.start(home, ["cache"])
    embedded.stop(home)
    (home / "servers.json").write_text('{"cache": {"pid": "many"}}')
    with pytest.raises(embedded.MemoryLost, match="remove the file"):
        embedded.addresses(home)
    (home / "servers.json").unlink()


def test_a_failed_creation_leaves_nothing_half_made(new_home: NewHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """When initdb fails its words are in the error, no folder remains, and the next start is a first start."""
    home = new_home()
    monkeypatch.setattr(postgres, "_INITDB", ("--encoding=nonsense",))
    with pytest.raises(embedded.ServerFailed, match="nonsense"):
        embedded.start(home, ["postgres"])
    assert [path.name for path in home.iterdir() if path.name.startswith("postgres")] == []
    assert not embedded.addresses(home)


def test_durable_is_the_default(new_home: NewHome) -> None:
    """Unless told otherwise PostgreSQL survives a crash of the machine: fsync and synchronous commit are on."""
    url = embedded.start(new_home(), ["postgres"])["postgres"]
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert query(url, f"SHOW {setting}") == [("on",)]


def test_nothing_is_made_by_asking(tmp_path: Path) -> None:
    """addresses, status and stop of a home that is missing or empty answer and leave no trace; nor does a wrong name."""
    home = tmp_path / "home"
    assert embedded.addresses(home) == {}
    assert [one.running for one in embedded.status(home)] == [False] * 3
    assert embedded.stop(home) == []
    with pytest.raises(ValueError, match="mysql"):
        embedded.start(home, ["mysql"])
    assert embedded.stop(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_home_where_a_start_has_just_begun_is_ours(tmp_path: Path) -> None:
    """A folder that holds nothing but the lock is no foreign folder: another start is about to mark it."""
    (tmp_path / ".lock").touch()
    assert embedded.addresses(tmp_path) == {}


@pytest.mark.parametrize("verb", [embedded.start, embedded.stop, embedded.status, embedded.addresses])
def test_a_foreign_home_is_refused(tmp_path: Path, verb: Callable[[Path], object]) -> None:
    """A folder with other people's files, a file, or a folder open to all is refused and stays as it was."""
    (file := tmp_path / "thesis.txt").write_text("mine")
    (everyones := tmp_path / "everyones").mkdir()
    everyones.chmod(0o777)
    for foreign in (tmp_path, file, everyones):
        with pytest.raises(embedded.ForeignHome, match=str(foreign)):
            verb(foreign)
    assert {path.name for path in tmp_path.rglob("*")} == {"thesis.txt", "everyones"}
    assert mode(everyones) == 0o777


@as_root
def test_a_home_of_another_account_is_refused(tmp_path: Path) -> None:
    """Not even root takes over a folder that belongs to somebody else, empty or not."""
    (theirs := tmp_path / "theirs").mkdir()
    os.chown(theirs, 1, 1)
    with pytest.raises(embedded.ForeignHome, match="belongs to uid 1"):
        embedded.start(theirs)
    assert list(theirs.iterdir()) == []


def test_no_permission_changes(new_home: NewHome) -> None:
    """No folder on the way to the home or to the binaries, nor an empty home that was there, changes mode or owner."""
    home = new_home()
    home.mkdir(mode=0o755)
    program = postgres._package() / "pginstall/bin/postgres"
    ways = (home / "log", program, valkey._binary())
    before = [(permissions(way), mode(way) if way.exists() else None) for way in ways[1:]] + [
        (permissions(ways[0]), None)
    ]
    embedded.start(home, durable=False)
    embedded.stop(home)
    assert [(permissions(way), mode(way)) for way in ways[1:]] + [(permissions(ways[0]), None)] == before


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
    before = permissions(home / "log")
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
        assert before.items() <= permissions(home / "log").items()
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
