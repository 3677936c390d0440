"""ops/ and docs/deploy.md against the Procfile and the settings: the units, their environment files, and the page."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from config.celery import options
from config.settings import Settings
from tests import ops
from worker.cli import main

UNITS = ops.OPS / "systemd"
BIN = "/opt/redirect-worker/.venv/bin/"
HARDENED = {
    "KillMode": ["mixed"],
    "NoNewPrivileges": ["yes"],
    "CapabilityBoundingSet": [""],
    "ProtectSystem": ["strict"],
    "ProtectHome": ["yes"],
    "PrivateTmp": ["yes"],
    "PrivateDevices": ["yes"],
    "RestrictAddressFamilies": ["AF_INET AF_INET6 AF_UNIX"],
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
}
NO_SYSTEMD = "systemd-analyze is not on this machine"
# systemd 252 does not know these yet.
NEWER = re.compile(r".*Unknown key '(RestartSteps|RestartMaxDelaySec)' in section \[Service\], ignoring\.")
every_process = pytest.mark.parametrize("process", list(ops.COMMANDS))


def unit(process: str) -> dict[str, list[str]]:
    """Key -> values of a unit's [Service], with those of its drop-in, which wins."""
    found: dict[str, list[str]] = {}
    for path in (UNITS / f"redirect-worker-{process}.service", *UNITS.glob("redirect-worker-.service.d/*.conf")):
        section: dict[str, list[str]] = {}
        for name, _, value in re.findall(r"^(\w+)(=)(.*)$", path.read_text().partition("[Service]")[2], re.MULTILINE):
            section.setdefault(name, []).append(value)
        found |= section
    return found


def test_there_is_a_unit_for_each_line_of_the_procfile_and_no_other() -> None:
    """And the target starts all but the release, which a machine that boots must not run."""
    assert {path.stem for path in UNITS.glob("*.service")} == {f"redirect-worker-{name}" for name in ops.COMMANDS}
    wanted = re.findall(r"redirect-worker-(\w+)\.service", (UNITS / "redirect-worker.target").read_text())
    assert wanted == ops.PROCESSES


@every_process
def test_a_unit_runs_its_line_of_the_procfile_and_is_locked_down(process: str) -> None:
    """Not as root, without rights, on a file system that it cannot write to, with an end to its memory."""
    found = unit(process)
    command = " ".join(ops.COMMANDS[process])
    assert found["ExecStart"] == [BIN + command]
    assert found["User"] == found["Group"] == ["redirect-worker"]
    assert {name: found.get(name) for name in HARDENED} == HARDENED
    assert "MemoryMax" in found
    assert not [name for name in found if name.endswith("Directory") and name != "WorkingDirectory"]


@pytest.mark.parametrize("process", ops.PROCESSES)
def test_a_unit_comes_back_and_is_waited_for_as_told(process: str) -> None:
    """Restart with a backoff and without an end; the patience is that of the page."""
    found = unit(process)
    assert (found["Restart"], found["RestartSec"], found["RestartMaxDelaySec"]) == (["on-failure"], ["2"], ["60"])
    text = (UNITS / f"redirect-worker-{process}.service").read_text()
    assert "StartLimitIntervalSec=0" in text
    assert "PartOf=redirect-worker.target" in text
    assert float(found["TimeoutStopSec"][0]) == ops.patience()[process]


def test_the_environment_files_name_settings_and_each_process_reads_those_that_it_needs() -> None:
    """The tokens are in a file that the gateway alone reads; every required one is in the file of its process."""
    shared, web = UNITS / "redirect-worker.env.example", UNITS / "redirect-worker-web.env.example"
    assert [name for path in (shared, web) for name in ops.variables(path) if not ops.is_known(name)] == []
    for process in ops.COMMANDS:
        read = {Path(path.lstrip("-")).name for path in unit(process)["EnvironmentFile"]} - {"flower.env"}
        files = [path for path in (shared, web) if path.name.removesuffix(".example") in read]
        assert len(files) == len(read)
        assert ops.needs()[process] <= {name for path in files for name in ops.variables(path)}
        assert (web in files) == (process == "web")


def test_no_example_holds_a_secret() -> None:
    """What must be secret says CHANGE-ME, in every example."""
    examples = [*ops.OPS.rglob("*.example"), ops.OPS / "compose/env.example"]
    for path in examples:
        for name, value in ops.variables(path).items():
            assert "CHANGE-ME" in value or not value or name not in ops.SECRETS, (path, name)
    secret = (ops.OPS / "kubernetes/secret.example.yaml").read_text()
    values = re.findall(r"^  ([A-Z_]+): (.*)$", secret, re.MULTILINE)
    assert [name for name, value in values if "CHANGE-ME" not in value] == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason=NO_SYSTEMD)
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """It knows every key and value, and finds that little is left open (its own measure, from 0 to 10)."""
    shutil.copytree(UNITS, tmp_path / "units")
    for command in {words[0] for words in ops.COMMANDS.values()}:
        (tmp_path / command).write_text("#!/bin/sh\n")
        (tmp_path / command).chmod(0o755)
    services = sorted((tmp_path / "units").glob("*.service"))
    for path in services:
        path.write_text(path.read_text().replace(BIN, f"{tmp_path}/"))
    named = [str(path) for path in services]
    said = ran("systemd-analyze", "verify", "--man=no", str(tmp_path / "units/redirect-worker.target"), *named)
    assert [line for line in said.splitlines() if not NEWER.fullmatch(line)] == []
    ran(
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=20",
        *[one for one in named if "target" not in one],
    )


def ran(*command: str) -> str:
    """What it said on stderr, once it has ended with 0."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_the_page_says_how_long_stopping_takes() -> None:
    """Each process ends within its patience, and the patience is longer than its code may take."""
    told = {row[0]: row for row in ops.rows(*ops.STOPPING)}
    assert list(told) == ops.PROCESSES
    for process, least in ops.at_least().items():
        assert ops.seconds(told[process][2]) <= ops.patience()[process]
        assert least <= ops.patience()[process]
    assert ops.seconds(told["worker"][2]) == Settings(broker_url="redis://broker").task_time_limit
    assert f"the worker waits {ops.at_least()['worker'] - 30:g} s" in ops.DOCUMENT.read_text()


def test_the_page_names_who_needs_which_url() -> None:
    """Whoever has all three can run doctor; beat and Flower have the broker alone."""
    assert ops.needs()["worker"] >= ops.URLS
    assert ops.needs()["beat"] == ops.needs()["flower"] == {"BROKER_URL", "SENTRY_DSN"}
    assert ops.needs()["release"] == {"DATABASE_URL", "BROKER_URL"}
    everything = {row[0] for row in ops.rows("setting", "who needs it", "what to know")}
    assert [name for name in everything if not ops.is_known(name)] == []


def test_the_page_shows_what_the_commands_print() -> None:
    """The findings of doctor by name, each of which it makes; the queues of migrate, in its order."""
    from worker.app import QUEUES

    text = ops.DOCUMENT.read_text()
    source = "".join((ops.ROOT / f"worker/{name}.py").read_text() for name in ("doctor", "doctor_rabbitmq"))
    findings = re.findall(r"^ok   (.{22}) ", text, re.MULTILINE)
    assert len(findings) == 18
    assert [name for name in findings if f'"{name.strip()}"' not in source] == []
    assert f"\nqueues: {', '.join(QUEUES)}, workflow.redirects.dead, workflow.redirects\n" in text
    assert {"migrate", "doctor", "send", "show"} <= set(main.commands)


def test_the_page_counts_connections_as_the_code_does() -> None:
    """A worker's processes and its own, an intake, a gateway with its two engines; and all while they are replaced."""
    from worker.db.session import make_engine

    pool: Any = make_engine("postgresql://nowhere/none").pool
    each = pool.size() + pool._max_overflow
    worker = options(Settings(broker_url="redis://broker"), (), ())["worker_concurrency"] * each + 1
    text = ops.DOCUMENT.read_text()
    assert f"a worker opens at most {worker} connections" in text
    assert f"intake {each}, a gateway {2 * each}" in text.replace("\n  ", " ")
    assert f"may use {5 * worker + 3 * each + 3 * 2 * each} while it replaces everything" in text
