"""The embedded servers, with real processes: started, found again, stopped."""

# ruff: noqa: F401, F811 -- fixtures are imported, and then asked for by naming them
import os
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from redis import RedisError

from tests.integration.embedded_homes import (
    SERVERS,
    NewHome,
    client,
    home,
    memory,
    mode,
    new_home,
    nothing_left_over,
    pid,
    pids,
    query,
    starter,
    urls,
)
from worker import embedded
from worker.embedded import processes
from worker.embedded.postgres import Postgres
from worker.embedded.valkey import Valkey


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
    # A process that has ended is there until its parent has heard of it.
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
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


def test_a_server_that_ends_while_it_is_looked_at_is_started_again(
    home: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed a moment ago, and is still there when we look: on a busy machine that is long."""
    find = embedded._process

    def found(*record: Any) -> Any:
        process: Any = find(*record)
        os.kill(process.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(embedded, "_process", found)
    assert embedded.start(home, ["cache"], durable=False) == {"cache": urls["cache"]}


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


def test_a_port_that_was_given_out_is_nobody_elses() -> None:
    """Two processes that look for ports at once get different ones; a server listens on its own all the same."""
    ports = [processes.free_port(None) for _ in range(20)]
    assert len(set(ports)) == len(ports)
    assert not any(processes._held(port) for port in ports)
    with socket.create_server(("127.0.0.1", ports[0])), socket.create_connection(("127.0.0.1", ports[0])):
        pass


def test_durable_is_the_default(new_home: NewHome) -> None:
    """Unless told otherwise PostgreSQL survives a crash of the machine: fsync and synchronous commit are on."""
    url = embedded.start(new_home(), ["postgres"])["postgres"]
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert query(url, f"SHOW {setting}") == [("on",)]
