"""A RabbitMQ node of one's own: everything in one folder, on free ports of 127.0.0.1, gone when it is stopped."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Self

import psutil
from kombu import Connection

from tests.eventually import eventually
from worker.embedded.processes import free_port

# What Debian puts on the PATH gives up root for an account of its own; these do not.
PLACES = ("/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin")
# By this variable .ci/run finds a node that has outlived the tests of a checkout.
STARTED_BY = "REDIRECT_TESTS_OF"
CHECKOUT = Path(__file__).resolve().parent.parent
_LOCAL = "-kernel inet_dist_use_interface {127,0,0,1}"
# No scheduler turns in circles while it has nothing to do: four nodes share these cores with the rest.
_IDLE = "+sbwt none +sbwtdcpu none +sbwtdio none"
# A log of 512 MB that each node would keep in memory, and a limit that a nearly full disk must not trip.
_SMALL = "raft.wal_max_size_bytes = 33554432\ndisk_free_limit.absolute = 1MB\nlog.file.level = warning\n"


def installed() -> Path | None:
    """The folder of RabbitMQ's commands, or None."""
    found = shutil.which("rabbitmq-server", path=os.pathsep.join([*PLACES, os.environ.get("PATH", "")]))
    return Path(found).parent if found else None


class RabbitMQ:
    """One node: `start`, `stop` (its data stays), `kill`, `ctl`, `vhost`. As a context manager: up inside the block."""

    def __init__(self, folder: Path, plugins: Sequence[str] = (), settings: str = "") -> None:
        """`settings` are more lines of its rabbitmq.conf."""
        where = installed()
        assert where is not None, "rabbitmq-server is not installed"
        self.folder, self._bin, self._numbers = folder, where, count(1)
        self.port, self.management_port, self._epmd, self._distribution = (free_port(None) for _ in range(4))
        self._started: list[subprocess.Popen[bytes]] = []
        self._spare: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        management = f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
        (folder / "rabbitmq.conf").write_text(
            _SMALL + (management if "rabbitmq_management" in plugins else "") + settings
        )

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def name(self) -> str:
        return f"redirect-tests-{self.port}@localhost"

    @property
    def management_url(self) -> str:
        """Only with the plugin `rabbitmq_management`."""
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    @property
    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.rglob("*.log")))

    @property
    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": self.folder,  # where Erlang keeps its cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": self._epmd,
            "RABBITMQ_CTL_ERL_ARGS": _LOCAL,
            "RABBITMQ_DIST_PORT": self._distribution,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_LOCAL} -start_epmd false {_IDLE}",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "enabled_plugins",
            "RABBITMQ_LOG_BASE": self.folder / "log",
            "RABBITMQ_MNESIA_BASE": self.folder / "mnesia",
            "RABBITMQ_PID_FILE": self.folder / "pid",
            STARTED_BY: CHECKOUT,
        }
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return inherited | {"LANG": "C.UTF-8"} | {name: str(value) for name, value in own.items()}

    def start(self) -> Self:
        """Returns once it accepts AMQP; a start that fails leaves nothing behind."""
        try:
            self._start_epmd()
            server = self._spawn(str(self._bin / "rabbitmq-server"))
            eventually(lambda: server.poll() is not None or self.answers(), within=60, every=0.2)
            assert server.poll() is None, f"RabbitMQ has ended: {self.log[-3000:]}"
        except BaseException:
            self.kill()
            raise
        return self

    def _start_epmd(self) -> None:
        # Ours from the start: the one that Erlang would start is nobody's child, and is never ended.
        self._spawn("epmd", "-port", str(self._epmd), "-address", "127.0.0.1")

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def answers(self) -> bool:
        with suppress(OSError), Connection(self.url, connect_timeout=2) as connection:
            connection.connect()
            return True
        return False

    def stop(self) -> None:
        """Stop it as an operator would; its data stays. Whatever does not go in 30 s is killed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut would end it; its data stays."""
        self._end(signal.SIGKILL)

    def _end(self, sign: signal.Signals) -> None:
        processes = self.processes()
        for server in reversed(self._started):  # epmd last
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, sign)
                server.wait(timeout=30)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        for server in self._started:
            server.wait(timeout=10)
        self._started.clear()

    def processes(self) -> list[psutil.Process]:
        """Everything that this node runs as."""
        found: list[psutil.Process] = []
        for process in self._started:
            with suppress(psutil.NoSuchProcess):
                server = psutil.Process(process.pid)
                found += [server, *server.children(recursive=True)]
        return found

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl <arguments>` prints."""
        command = [str(self._bin / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    @cached_property
    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.ctl("version").split(".")[:2])

    def vhost(self, **options: str) -> str:
        """The URL of a fresh, empty virtual host; `default_queue_type="quorum"` is its option of that name."""
        if options:
            name = f"test{next(self._numbers)}"
            given = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
            self.ctl("add_vhost", name, *given)
            self.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        else:
            self._spare = self._spare or self._vhosts(8)
            name = self._spare.pop(0)
        return self.url.removesuffix("/") + name

    def _vhosts(self, number: int) -> list[str]:
        """Many at once, for each call of `rabbitmqctl` takes a second of a core."""
        names = [f"test{next(self._numbers)}" for _ in range(number)]
        allowed = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
        made = {"vhosts": [{"name": n} for n in names], "permissions": [{"vhost": n} | allowed for n in names]}
        (self.folder / "vhosts.json").write_text(json.dumps(made))
        self.ctl("import_definitions", str(self.folder / "vhosts.json"))
        return names

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
