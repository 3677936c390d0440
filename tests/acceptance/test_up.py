"""`redirect-worker up`: everything from one command, and nothing left when it ends."""

import json
import os
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.acceptance import ups
from tests.acceptance.ups import Up
from tests.conftest import fresh_database
from tests.eventually import eventually
from tests.service import Service
from worker import embedded, stack

# The first start of a home makes a database.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` for all tests that leave it running."""
    with ups.running(tmp_path_factory.mktemp("up") / "home") as up:
        yield up


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for tests that each start and end an `up` of their own: only the first has to make the database."""
    return tmp_path_factory.mktemp("up") / "home"


def test_it_prints_where_everything_is_and_what_to_type(up: Up) -> None:
    """The page, the live channel and Flower are named, all answer, and the example is a command that works."""
    text = up.text
    assert f"http://127.0.0.1:{up.port}/\n" in text
    assert f"http://127.0.0.1:{up.port}/docs" in text
    assert f"ws://127.0.0.1:{up.port}/ws" in text
    assert f"http://127.0.0.1:{up.flower_port}" in text
    assert json.loads(ups.get(f"http://127.0.0.1:{up.port}/healthz")) == {"status": "ok"}
    assert "<html" in ups.get(f"http://127.0.0.1:{up.port}/docs").lower()
    assert "flower" in ups.get(f"http://127.0.0.1:{up.flower_port}/").lower()

    example = next(line for line in text.splitlines() if "redirect-worker send" in line)
    _program, *words = shlex.split(example)
    sent = ups.command(*words, home=up.home)

    assert (sent.returncode, sent.stderr) == (0, "")
    conversation_id = words[1]
    eventually(lambda: ups.shown(conversation_id, up.home), within=20, every=0.5)


def test_a_sent_redirect_reaches_state_and_copies_and_flower(up: Up) -> None:
    """`send` with no URL set finds the running broker; state, cache and record follow; Flower shows it all."""
    sent = ups.command("send", "seen-1", "sales", "--owner", "7", "--json", home=up.home)
    event_id = json.loads(sent.stdout)["sent"]["event_id"]
    service = up.service()
    eventually(lambda: service.state("seen-1"), within=20)
    eventually(service.agrees, within=20)

    found = ups.shown("seen-1", up.home)
    assert (found["state"]["destination"], found["state"]["version"]) == ("sales", 1)
    assert found["cache"]["version"] == found["record"]["version"] == 1
    assert [redirect["event_id"] for redirect in found["redirects"]] == [event_id]

    flower = f"http://127.0.0.1:{up.flower_port}/api"
    workers = eventually(lambda: json.loads(ups.get(f"{flower}/workers?refresh=1")), within=20)
    assert [name.partition("@")[0] for name in workers] == ["celery"]

    def told() -> bool:
        tasks = json.loads(ups.get(f"{flower}/tasks?taskname=redirect_conversation")).values()
        assert [task["state"] for task in tasks if event_id in task["args"]] == ["SUCCESS"]
        return True

    eventually(told, within=20)


def test_it_makes_a_secret_and_only_its_tokens_open_the_gateway(up: Up) -> None:
    """Without a token nothing is shown; with the page's, or one that `token` prints, all is; the secret is private."""
    gateway = f"http://127.0.0.1:{up.port}"
    with pytest.raises(HTTPError, match="401"):
        ups.get(f"{gateway}/conversations")
    with connect(f"ws://127.0.0.1:{up.port}/ws", proxy=None) as live, pytest.raises(ConnectionClosed, match="4401"):
        live.recv(timeout=20)

    given = json.loads(ups.get(f"{gateway}/development-token"))["token"]
    printed = ups.command("token", home=up.home).stdout.strip()
    for token in (given, printed):
        assert "conversations" in json.loads(ups.get(f"{gateway}/conversations", Authorization=f"Bearer {token}"))
        offered: list[Any] = ["redirect.v1", f"bearer.{token}"]
        with connect(f"ws://127.0.0.1:{up.port}/ws", proxy=None, subprotocols=offered) as live:
            assert json.loads(live.recv(timeout=20))["type"] == "snapshot"

    secrets = up.home / "secrets.json"
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert json.loads(secrets.read_text())["jwt_secret"] not in up.text
    assert given not in up.text


def test_half_a_character_is_no_message_of_a_customer(up: Up) -> None:
    """JSON can say it, and no answer can quote it: 422, and the gateway goes on."""
    gateway = f"http://127.0.0.1:{up.port}"
    token = json.loads(ups.get(f"{gateway}/development-token"))["token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    said = Request(f"{gateway}/demo/messages", b'{"conversation_id": "c1", "text": "\\ud800"}', headers)
    with pytest.raises(HTTPError) as refused:
        build_opener(ProxyHandler({})).open(said, timeout=10)
    assert refused.value.code == 422
    assert json.loads(refused.value.read())["detail"][0]["loc"] == ["body", "text"]


def test_a_second_up_says_what_runs_where_and_leaves_it_alone(up: Up) -> None:
    """It exits 1 with the pid and the addresses of the first; every process of the first goes on."""
    before = up.processes()[:]

    second = ups.command("up", home=up.home, environment={"PORT": "0", "REDIRECT_FLOWER_PORT": "0"})

    assert second.returncode == 1
    assert f"already running (pid {up.popen.pid})" in second.stderr
    assert f"http://127.0.0.1:{up.port}/docs" in second.stderr
    assert f"http://127.0.0.1:{up.flower_port}" in second.stderr
    assert "Traceback" not in second.stderr
    assert len(ups.alive(before)) == len(before)
    # PostgreSQL has a process for each connection, and they come and go.
    begun = [process for process in up.processes() if process not in before]
    assert [process for process in begun if process.is_running() and process.name() != "postgres"] == []
    assert json.loads(ups.get(f"http://127.0.0.1:{up.port}/healthz")) == {"status": "ok"}


@pytest.mark.slow
def test_data_and_a_queued_event_survive_a_stop(home: Path) -> None:
    """SIGINT and SIGTERM end everything with exit code 0; the next `up` has the old state, and applies what waited."""
    with ups.running(home) as first:
        ups.command("send", "kept-1", "billing", home=home)
        eventually(lambda: first.service().state("kept-1"), within=20)
        assert first.stop(signal.SIGINT) == 0
    try:
        embedded.start(home)
        sender = ups.service_of(home)
        sender.send({"event_id": "waited", "conversation_id": "queued-1", "destination": "support"})
        assert sender.broker.llen("redirects") == 1
    finally:
        sender.broker.close()
        embedded.stop(home)

    with ups.running(home) as second:
        look = second.service()
        eventually(lambda: look.cached("queued-1") and look.record("queued-1"), within=30)
        kept = look.state("kept-1")
        assert kept is not None and (kept["destination"], kept["version"]) == ("billing", 1)
        assert second.stop(signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_middle_of_the_start_leaves_no_process(home: Path, number: signal.Signals) -> None:
    """However early it comes (here: when the first server runs), all that was started by then is ended; exit code 0."""
    with ups.launched(home) as up:
        eventually(lambda: "postgres: started" in up.text, within=60, every=0.01)
        assert up.stop(number) == 0
        assert embedded.addresses(home) == {}
        assert "The redirect worker is up." not in up.text


def _crew(up: Up) -> list[psutil.Process]:
    """The four processes of the Procfile and, once the worker has forked, its children."""
    known = json.loads((up.home / "up.json").read_text())["processes"]
    mains = [psutil.Process(pid) for pid, *_ in known]
    return mains + [child for main in mains for child in main.children()]


@pytest.mark.slow
def test_after_a_kill_a_new_up_ends_the_orphans_and_runs(home: Path) -> None:
    """SIGKILL of `up` leaves its processes; the next `up` ends those, takes over the servers, and works."""
    with ups.running(home) as killed:
        eventually(lambda: len(_crew(killed)) > 4, within=20)
        orphans = _crew(killed)
        killed.popen.kill()
        killed.popen.wait(timeout=10)
        assert len(ups.alive(orphans)) == len(orphans)

        with ups.running(home) as second:
            assert ups.alive(orphans) == []
            ups.command("send", "after-1", "general", home=home)
            eventually(lambda: second.service().state("after-1"), within=20)
            assert second.stop(signal.SIGHUP) == 0
        assert ups.alive(killed.seen) == []


@pytest.fixture
def urls(servers: dict[str, str]) -> dict[str, str]:
    """The environment of somebody who has servers of their own."""
    database = fresh_database(servers["postgres"])
    return {"DATABASE_URL": database, "BROKER_URL": servers["broker"], "REDIS_URL": servers["cache"]}


@pytest.mark.slow
def test_with_all_urls_set_it_starts_no_server(urls: dict[str, str], tmp_path: Path) -> None:
    """Its own servers are used, and none is started; and when one process ends by itself, all end: exit code not 0."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with ups.running(tmp_path / "home", urls | {"PORT": port}) as up:
            assert f"port {port} (PORT) is taken: using " in up.text
            ups.command("send", "own-1", "technical", environment=urls)
            service = Service(urls["DATABASE_URL"], urls["BROKER_URL"], urls["REDIS_URL"], tmp_path)
            eventually(lambda: service.state("own-1"), within=20)
            eventually(service.agrees, within=20)
            assert not (up.home / "servers.json").exists()
            everything = up.processes()[:]
            assert not [one for one in everything if one.name().startswith(("postgres", "valkey"))]

            flower = next(one for one in everything if "flower" in one.cmdline())
            flower.kill()
            assert up.popen.wait(timeout=ups.DOWN_WITHIN) != 0
            assert "flower has ended by itself (exit code -9)" in up.text
            assert ups.alive(everything) == []


@pytest.mark.parametrize("command", ["sh -c 'sleep 600 & echo $!; wait'", "sh -c 'sleep 600 & echo $!; exit 3'"])
def test_what_a_process_leaves_behind_is_ended_with_it(command: str) -> None:
    """A child that its parent does not end: it goes with the group, whether the parent was told to end or just did."""
    said: list[str] = []
    crew = stack.Crew(said.append)
    try:
        crew.start("odd", command, dict(os.environ))
        eventually(lambda: said, within=10)
        child = psutil.Process(int(said[0].rpartition(" ")[2]))
        assert ups.alive([child])
        if "exit 3" in command:
            assert crew.wait() == ("odd", 3)
    finally:
        crew.end()
    eventually(lambda: not ups.alive([child]), within=10)
