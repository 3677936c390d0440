"""The demo's stage: servers and processes in a folder of their own, a browser that listens, a cache to cut off."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from redis import Redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from worker import embedded, stack
from worker.db import migrations
from worker.db.session import make_engine
from worker.errors import WorkerError

ACT_WITHIN = 40.0
# The demo's browser brings no token, whatever keys this machine has.
OPEN = {"REDIRECT_JWT_SECRET": "", "REDIRECT_JWT_JWKS": "", "REDIRECT_HTTP_TOKENS": ""}
CAST = ("worker", "beat", "web")


_told_to_end = threading.Event()


def end_like_ctrl_c() -> None:
    """From now on the first of these signals is a KeyboardInterrupt; a second one does not disturb the clearing up."""

    def once(*_: object) -> None:
        if not _told_to_end.is_set():
            _told_to_end.set()
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, once)


class Stuck(WorkerError):
    """The demo waited for something that did not happen."""


class Stage:
    """What the story needs: send events, look at copies, cut the cache off and bring it back."""

    def __init__(self, urls: dict[str, str], home: Path) -> None:
        self.home, self.port = home, stack.free_port(0)
        self.engine = make_engine(urls["postgres"])
        self.cache = Redis.from_url(urls["cache"], decode_responses=True)
        self.worker_cache_url = self._user_for_the_worker(urls["cache"])
        self.producer = Celery("a-workflow-engine", broker=urls["broker"])
        self.urls = {"DATABASE_URL": urls["postgres"], "BROKER_URL": urls["broker"]}
        self.frames: dict[str, list[int]] = defaultdict(list)

    def _user_for_the_worker(self, url: str) -> str:
        password = secrets.token_hex(8)
        self._allow("on", f">{password}", "~*", "&*", "+@all")
        return f"redis://worker:{password}@127.0.0.1:{urlsplit(url).port}/0"

    def cut_cache(self) -> None:
        """From now on the cache answers the worker, and only it, with errors."""
        self._allow("nocommands")

    def mend_cache(self) -> None:
        self._allow("+@all")

    def _allow(self, *rules: str) -> None:
        self.cache.execute_command("ACL", "SETUSER", "worker", *rules)  # type: ignore[no-untyped-call]

    def send(self, event: object) -> None:
        self.producer.send_task("redirect_conversation", args=[event], queue="redirects")

    def listen(self) -> None:
        """Follow /ws as a browser does: note the versions in the snapshot, then each frame's."""
        with suppress(ConnectionClosed), connect(f"ws://127.0.0.1:{self.port}/ws") as socket:
            for message in socket:
                frame = json.loads(message)
                for shown in frame.get("conversations", [frame]):
                    self.frames[shown["conversation_id"]].append(shown["version"])

    @contextmanager
    def playing(self) -> Iterator[None]:
        """The worker, beat and the gateway run until the block ends."""
        running = [self._start(name) for name in CAST]
        try:
            self.until(lambda: stack.listens(self.port), "the gateway to listen")
            threading.Thread(target=self.listen, daemon=True).start()
            self.until(lambda: " ready." in self._log("worker").read_text(errors="replace"), "the worker to be ready")
            yield
        finally:
            for process in reversed(running):
                _end(process)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        # The gateway keeps its own access: the demo cuts off the worker, and leaves the browser's line alone.
        redis = str(self.cache_url if name == "web" else self.worker_cache_url)
        own = {"REDIS_URL": redis, "PORT": str(self.port), "REDIRECT_HOME": str(self.home)}
        environment = stack.environment(self.urls, **own, **OPEN)
        with self._log(name).open("wb") as log:
            return subprocess.Popen(  # noqa: S602 - the Procfile's own line, run as a Procfile is run
                f"exec {stack.processes()[name]}",
                shell=True,
                env=environment,
                cwd=stack.ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def cache_url(self) -> str:
        return embedded.addresses(self.home)["cache"]

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def until(self, fact: Callable[[], Any], what: str) -> Any:
        """The first truthy answer of `fact`. Raises Stuck, which names the logs."""
        deadline = time.monotonic() + ACT_WITHIN
        while time.monotonic() < deadline:
            if _told_to_end.is_set():  # Python drops what is raised while it runs a destructor, also this exception
                raise KeyboardInterrupt
            if answer := fact():
                return answer
            time.sleep(0.05)
        raise Stuck(f"waited {ACT_WITHIN:.0f} s for {what}; the logs are in {self.home} (--keep keeps them)")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def stage(keep: bool, say: Callable[[str], None]) -> Iterator[Stage]:
    """A stage that leaves nothing behind: no process, and no folder unless `keep`."""
    folder = Path(tempfile.mkdtemp(prefix="redirect-worker-demo-"))
    home = folder / "home"
    try:
        urls = embedded.start(home, say=say)
        migrations.upgrade(urls["postgres"])
        set_up = Stage(urls, home)
        with set_up.playing():
            yield set_up
    finally:
        with suppress(UnboundLocalError):
            set_up.engine.dispose()
        embedded.stop(home)
        if keep:
            say(f"kept: {home}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
