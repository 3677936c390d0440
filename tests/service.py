"""The service under test, as its users meet it: real processes, an outside producer, and four places to look."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis
from sqlalchemy import Engine, NullPool, text

from worker.db.session import make_engine

WORKER = ("worker", "--without-gossip", "--without-mingle")
BEAT = ("beat",)


@dataclass
class Process:
    """A process group that this test started."""

    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Signal the whole group, as a lost machine would end it, and wait for the end."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, sig)
        self.popen.wait(timeout=40)

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def says(self, words: str) -> bool:
        return words in self.log.read_text(errors="replace")


@dataclass
class Service:
    """One database, one broker, one cache, and the processes a test starts against them."""

    database_url: str
    broker_url: str
    redis_url: str
    folder: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDIRECT_")}
        own = {"DATABASE_URL": self.database_url, "BROKER_URL": self.broker_url, "REDIS_URL": self.redis_url}
        return inherited | own | {"C_FORCE_ROOT": "1", "PYTHONWARNINGS": "default"} | self.extra

    def spawn(self, *command: str, environment: Mapping[str, str] | None = None) -> Process:
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment | dict(environment or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Process(popen, log)

    @contextmanager
    def running(self, *command: str, ready: str | None = None, **environment: str) -> Iterator[Process]:
        """A process of ours until the block ends, once its log says `ready`."""
        from tests.eventually import eventually

        process = self.spawn(*command, environment=environment)
        try:
            if ready is not None:
                eventually(lambda: process.says(ready) or not process.running, within=30)
                assert process.says(ready), process.log.read_text(errors="replace")
            yield process
        finally:
            process.kill()

    @contextmanager
    def worker(self, *options: str, **environment: str) -> Iterator[Process]:
        command = ("celery", "-A", "worker.app", *WORKER, *options)
        with self.running(*command, ready=" ready.", **environment) as process:
            yield process

    @contextmanager
    def beat(self, **environment: str) -> Iterator[Process]:
        with self.running("celery", "-A", "worker.app", *BEAT, **environment) as process:
            yield process

    # The producer: an application that shares no code with the service.

    @cached_property
    def producer(self) -> Celery:
        return Celery("outside", broker=self.broker_url)

    def send(self, *events: object, **options: Any) -> None:
        self.producer.send_task("redirect_conversation", args=list(events), queue="redirects", **options)

    # The places to look.

    @cached_property
    def engine(self) -> Engine:
        return make_engine(self.database_url, poolclass=NullPool)

    @cached_property
    def cache(self) -> Redis:
        return Redis.from_url(self.redis_url, decode_responses=True)

    @cached_property
    def broker(self) -> Redis:
        return Redis.from_url(self.broker_url)

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            found = connection.execute(text(sql), values).all()
        # Not before: a transaction that is idle while millions become dicts is ended by the database.
        return [row._asdict() for row in found]

    def state(self, conversation_id: str) -> dict[str, Any] | None:
        found = self.rows("SELECT * FROM conversation_states WHERE conversation_id = :id", id=conversation_id)
        return found[0] if found else None

    def record(self, conversation_id: str) -> dict[str, Any] | None:
        found = self.rows("SELECT * FROM conversations WHERE id = :id", id=conversation_id)
        return found[0] if found else None

    def cached(self, conversation_id: str) -> dict[str, Any] | None:
        value = self.cache.get(f"ai_control_{conversation_id}")
        return json.loads(str(value)) if value else None

    def redirects(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM redirects ORDER BY received_at, event_id")

    def rejected(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM rejected_events ORDER BY received_at")

    def effects(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM side_effects ORDER BY id")

    def disagreements(self) -> list[str]:
        """Every copy that does not show what its state says, and every side effect that is still there."""
        wrong = [f"{row['kind']} of {row['conversation_ids'][:3]}: {row['last_error']}" for row in self.effects()]
        for state in self.rows("SELECT * FROM conversation_states ORDER BY conversation_id"):
            expected = {name: state[name] for name in ("ai_enabled", "status", "destination", "version")}
            record = self.record(state["conversation_id"]) or {}
            copies = {
                "cache": self.cached(state["conversation_id"]),
                "record": {name: record.get(name) for name in expected},
            }
            wrong += [
                f"{name} of {state['conversation_id']}: {copy}, should be {expected}"
                for name, copy in copies.items()
                if copy != expected
            ]
        return wrong

    def agrees(self) -> bool:
        """Whether all copies show the truth; as an assertion, so that a wait that fails says what is wrong."""
        assert self.disagreements() == []
        return True
