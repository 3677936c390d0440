"""ops/docker and ops/compose against the Procfile, the settings and the lock."""

import json
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests import ops
from worker.doctor_rabbitmq import lacking

COMPOSE = ops.OPS / "compose/compose.yaml"
IMAGE = "redirect-worker:0.1.0"
SERVERS = {"postgres", "rabbitmq", "valkey"}
NO_COMPOSE = "docker compose is not on this machine"


def program(path: str) -> ModuleType:
    """A file of ops/, which is a program and no package."""
    spec = util.spec_from_file_location(Path(path).stem, ops.OPS / path)
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUBSET = program("docker/subset.py")


def test_the_image_gets_what_the_service_needs_and_nothing_of_a_developer() -> None:
    """All that the installed packages say they need, from the service's own requirements down; each with its hashes."""
    lock = (ops.ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ops.ROOT / "pyproject.toml").read_text())["project"]
    roots = {SUBSET.normal(line) for line in project["dependencies"]}
    found = {SUBSET.normal(block): block for block in SUBSET.subset(lock, roots)}
    assert required(project["dependencies"]) <= set(found)
    assert all("--hash=sha256:" in block for block in found.values())
    assert not {"pytest", "mypy", "playwright", "django", "ruff"} & set(found)
    build = {SUBSET.normal(block) for block in SUBSET.subset(lock, {"hatchling", SUBSET.EDITABLE})}
    assert required(["hatchling", SUBSET.EDITABLE]) <= build


def required(lines: list[str]) -> set[str]:
    """Names of the packages that these requirements need, here and now, as their metadata says."""
    normal = SUBSET.normal
    waiting, found = [Requirement(line) for line in lines], set[str]()
    while waiting:
        one = waiting.pop()
        found.add(normal(one.name))
        for line in metadata.requires(one.name) or []:
            more = Requirement(line)
            extras = [*one.extras, ""]
            wanted = any(more.marker is None or more.marker.evaluate({"extra": extra}) for extra in extras)
            if wanted and (normal(more.name) not in found or more.extras):
                waiting.append(more)
    return found


def test_the_image_is_nobodys_root_and_takes_hashes_alone() -> None:
    """Whatever pip fetches is in the lock with its hash; the process has a number, not a name."""
    text = (ops.OPS / "docker/Dockerfile").read_text()
    fetching = [line for line in text.splitlines() if "pip install" in line and "--no-index" not in line]
    assert fetching
    assert all("--require-hashes" in line for line in fetching)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert text.count("FROM python:${PYTHON}-slim") == 2
    copied = " ".join(re.findall(r"^COPY (?!--from)(?:--\S+ )?(.*) \S+$", text, re.MULTILINE)).split()
    let_through = re.findall(r"^!(.*)$", (ops.OPS / "docker/Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(let_through)
    assert [name for name in copied if not (ops.ROOT / name).exists()] == []


def probe(proc: Path, tmp_path: Path) -> int:
    environment = {"PROC": str(proc), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([ops.OPS / "docker/alive"], env=environment, capture_output=True, timeout=10, check=False)
    assert done.stderr == b""
    return done.returncode


def test_alive_fails_for_a_main_process_that_has_not_woken_up_and_for_nothing_else(tmp_path: Path) -> None:
    """It looks twice at the same number: 1. Anything new, another process, or a kernel that does not tell: 0."""
    proc = tmp_path / "proc"
    (proc / "1/task/1").mkdir(parents=True)
    (proc / "7").mkdir()
    children, status = proc / "1/task/1/children", proc / "7/status"
    looks = [("7 ", 40, 0), ("7 ", 41, 0), ("7 ", 41, 1), ("7 ", 42, 0), ("7 ", 0, 0), ("7 ", 42, 1), ("", 42, 0)]
    for main_process, woken, answer in looks:
        children.write_text(main_process)
        status.write_text(f"State:\tS (sleeping)\nvoluntary_ctxt_switches:\t{woken}\nnonvoluntary_ctxt_switches:\t1\n")
        assert probe(proc, tmp_path) == answer, (main_process, woken)
    assert probe(tmp_path / "nothing", tmp_path) == 0


@pytest.fixture(scope="module")
def compose() -> Any:
    (document,) = ops.yaml_documents(COMPOSE)
    return document


def test_compose_runs_each_line_of_the_procfile(compose: Any) -> None:
    """With the servers and what sets up the broker, and with nothing else. Flower's has an address besides."""
    services = compose["services"]
    assert set(services) == {*ops.COMMANDS, *SERVERS, "broker"}
    told = {name: services[name]["command"] for name in ops.COMMANDS}
    assert told["flower"].pop() == "--address=0.0.0.0"
    assert "FLOWER_BASIC_AUTH" in services["flower"]["environment"]
    assert told == ops.COMMANDS


def test_compose_locks_every_container_down(compose: Any) -> None:
    """No right, no way to get one, nothing to write to but a volume and memory, and not as root."""
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert any(place.startswith("/tmp") for place in service["tmpfs"]), name
        assert service["image"] != IMAGE or "user" not in service, "the image has a user of its own"
        assert (service.get("user", "root") != "root") == (name in SERVERS), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    images = {service["image"] for name, service in compose["services"].items() if name not in SERVERS}
    assert images == {IMAGE}
    assert IMAGE.endswith(":" + tomllib.loads((ops.ROOT / "pyproject.toml").read_text())["project"]["version"])


def test_compose_gives_each_process_what_it_needs_and_no_other_secret(compose: Any) -> None:
    """Every variable is a setting; what has no default is in the example."""
    for name in ops.COMMANDS:
        given = set(compose["services"][name]["environment"])
        assert [one for one in given if not ops.is_known(one)] == []
        assert given & ops.SECRETS == ops.needs()[name], name
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert asked == set(ops.variables(ops.OPS / "compose/env.example"))


def test_compose_waits_for_what_must_be_there(compose: Any) -> None:
    """Every process for the release, the release for the servers; every container that stays has a health check."""
    services = compose["services"]
    for name in ops.PROCESSES:
        needed = services[name]["depends_on"]
        assert needed["release"] == {"condition": "service_completed_successfully"}, name
        assert ("valkey" in needed) == ("REDIS_URL" in services[name]["environment"]), name
        assert float(services[name]["stop_grace_period"].removesuffix("s")) == ops.patience()[name]
        assert services[name]["mem_limit"], name
    assert services["release"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    once = {"release", "broker"}
    assert {name for name, service in services.items() if "healthcheck" in service} == set(services) - once
    assert {name for name, service in services.items() if service["restart"] == "no"} == once


@pytest.mark.skipif(
    not shutil.which("docker")
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason=NO_COMPOSE,
)
def test_compose_takes_its_file(tmp_path: Path) -> None:
    """With the example as its environment."""
    command = ["docker", "compose", "--file", str(COMPOSE), "--env-file", str(ops.OPS / "compose/env.example")]
    done = subprocess.run([*command, "config", "--quiet"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def management() -> Iterator[tuple[int, list[tuple[str, Any]]]]:
    """A management API that takes everything: its port, and what it was sent."""
    taken: list[tuple[str, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            taken.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody asked."""

    with HTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port, taken
        finally:
            server.shutdown()
            thread.join()


def test_compose_makes_the_broker_what_doctor_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Quorum queues by default, the right to use them, and a policy in which doctor finds nothing missing."""
    with management() as (port, taken):
        program("compose/broker.py").main("amqp://redirects:secret@127.0.0.1:5672/redirects", port)
    assert [path for path, _ in taken] == [
        "/api/vhosts/redirects",
        "/api/permissions/redirects/redirects",
        "/api/policies/redirects/redirects",
    ]
    assert taken[0][1] == {"default_queue_type": "quorum"}
    policy = taken[2][1]
    assert re.fullmatch(policy["pattern"], "redirects")
    queue = {"type": "quorum", "arguments": {}, "effective_policy_definition": policy["definition"]}
    assert lacking(queue) == []
    assert "secret" not in capsys.readouterr().out
