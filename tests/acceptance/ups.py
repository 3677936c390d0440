"""A real `redirect-worker up` in a home of its own, commands as typed by a person, and every process accounted for."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from tests.eventually import eventually
from tests.integration.embedded_homes import discard
from tests.service import Service
from worker import embedded
from worker.embedded.processes import free_port

BIN = Path(sys.executable).parent
OURS = ("DATABASE_URL", "BROKER_URL", "REDIS_URL", "SENTRY_DSN", "PORT", "COLUMNS")
# A start takes about 5 s, a stop about 2 s; a loaded machine is slow.
UP_WITHIN = 60.0
DOWN_WITHIN = 60.0


def clean_environment() -> dict[str, str]:
    """As of somebody who has set nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REDIRECT_") and name not in OURS}


def command(
    *words: str, home: Path | None = None, environment: Mapping[str, str] | None = None, within: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """`redirect-worker <words>`, which must end within so many seconds."""
    homely = {"REDIRECT_HOME": str(home)} if home else {}
    return subprocess.run(
        [str(BIN / "redirect-worker"), *words],
        env=clean_environment() | homely | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def get(url: str, **headers: str) -> str:
    with build_opener(ProxyHandler({})).open(Request(url, headers=headers), timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def alive(processes: list[psutil.Process]) -> list[str]:
    """Those that still run, by what they run; a zombie waits for its parent, and does not run."""
    running = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(f"{process.pid}: {' '.join(process.cmdline()[-3:])}")
    return running


@dataclass
class Up:
    """A running `up`."""

    popen: subprocess.Popen[bytes]
    log: Path
    home: Path
    port: int
    flower_port: int
    seen: list[psutil.Process] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Everything that runs because of this `up`, and whatever was seen before; itself first."""
        roots = [self.popen.pid, *(one.pid for one in embedded.status(self.home) if one.running and one.pid)]
        for pid in roots:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                self.seen += [each for each in [process, *process.children(recursive=True)] if each not in self.seen]
        return self.seen

    def stop(self, number: signal.Signals) -> int:
        """Signal it and wait; its exit code. Fails when any process is left."""
        started = self.processes()
        assert self.popen.poll() is None, self.text
        self.popen.send_signal(number)
        code = self.popen.wait(timeout=DOWN_WITHIN)
        assert alive(started) == []
        return code

    def service(self) -> Service:
        """Where to look: the embedded servers of its home, running or not."""
        return service_of(self.home)


def service_of(home: Path) -> Service:
    urls = {name: server["url"] for name, server in json.loads((home / "servers.json").read_text()).items()}
    return Service(urls["postgres"], urls["broker"], urls["cache"], home)


@contextmanager
def launched(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[Up]:
    """`redirect-worker up`, just begun; everything that it started is ended with the block, come what may."""
    ports = {"PORT": free_port(None), "REDIRECT_FLOWER_PORT": free_port(None)}
    variables = {"REDIRECT_HOME": str(home)} | {name: str(port) for name, port in ports.items()}
    log = home.with_name(f"up-{ports['PORT']}.log")
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [str(BIN / "redirect-worker"), "up"],
            env=clean_environment() | variables | dict(environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    up = Up(popen, log, home, ports["PORT"], ports["REDIRECT_FLOWER_PORT"])
    try:
        yield up
    finally:
        _end(up)


@contextmanager
def running(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[Up]:
    """`redirect-worker up`, once it says so."""
    with launched(home, environment) as up:
        eventually(lambda: "The redirect worker is up." in up.text or up.popen.poll() is not None, within=UP_WITHIN)
        assert up.popen.poll() is None, up.text
        up.processes()
        yield up


def _end(up: Up) -> None:
    started = up.processes()
    if up.popen.poll() is None:
        up.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            up.popen.wait(timeout=DOWN_WITHIN)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    up.popen.wait(timeout=10)
    discard(up.home)


def shown(conversation_id: str, home: Path) -> Any:
    """What `redirect-worker show --json` says; None if the conversation is not known yet."""
    done = command("show", conversation_id, "--json", home=home)
    return json.loads(done.stdout) if done.returncode == 0 else None
