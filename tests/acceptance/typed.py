"""Commands as a person types them, without the second that each start of Python takes."""

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.acceptance.ups import clean_environment
from tests.service import Service

NOBODY = "127.0.0.1:1"
WITHIN = 30.0
Done = subprocess.CompletedProcess[str]

# It imports what commands import (importing opens nothing), and forks for each: own environment, output, exit code.
_SERVER = """
import json, os, sys
import worker.app, worker.cli, worker.db.migrations, worker.doctor, worker.guard.redis_transport, worker.show
import worker.tasks.maintenance, worker.tasks.record, worker.tasks.redirect, worker.tasks.websocket
for line in sys.stdin:
    words, environment, *outputs = json.loads(line)
    if not (child := os.fork()):
        os.environ.clear()
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody answers a question
        for descriptor, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv = ["redirect-worker", *words]
        try:
            worker.cli.main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Typed:
    """Types a command: all URLs are those of `service`, unless a test sets others."""

    service: Service
    within: float = WITHIN

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._server:
            os.killpg(self._server.pid, signal.SIGKILL)

    def __call__(self, *words: str, **environment: str) -> Done:
        """`redirect-worker <words>`, which must end within so many seconds."""
        assert self._server.stdin and self._server.stdout
        urls = {
            "DATABASE_URL": self.service.database_url,
            "BROKER_URL": self.service.broker_url,
            "REDIS_URL": self.service.redis_url,
            "REDIRECT_HOME": str(self.service.folder / "nowhere"),
        }
        outputs = [self.service.folder / "stdout", self.service.folder / "stderr"]
        task = [words, clean_environment() | urls | environment, *map(str, outputs)]
        self._server.stdin.write(json.dumps(task) + "\n")
        self._server.stdin.flush()
        ended, _, _ = select.select([self._server.stdout], [], [], self.within)
        assert ended, f"`{' '.join(words)}` has not ended within {self.within:g} s"
        code = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(output.read_text() for output in outputs))


def complaint(done: Done) -> str:
    """The one line of an error that was expected."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")
