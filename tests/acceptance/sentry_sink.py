"""A Sentry of our own: an HTTP server on loopback that keeps every envelope it is sent."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sink:
    """What arrived. While `hanging`, requests are taken and never answered."""

    port: int = 0
    envelopes: list[str] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    requests: int = 0

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.port}/1"

    def events(self) -> list[dict[str, Any]]:
        """The error events among the items of all envelopes."""
        return self._items("event")

    def check_ins(self) -> list[dict[str, Any]]:
        """What Sentry Crons was told."""
        return self._items("check_in")

    def _items(self, kind: str) -> list[dict[str, Any]]:
        found = []
        for envelope in self.envelopes:
            lines = envelope.splitlines()
            for header, payload in zip(lines[1::2], lines[2::2], strict=False):
                if json.loads(header).get("type") == kind:
                    found.append(json.loads(payload))
        return found

    def of(self, process: str) -> list[dict[str, Any]]:
        return [event for event in self.events() if event.get("tags", {}).get("process") == process]


@contextmanager
def sink() -> Iterator[Sink]:
    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sink.requests += 1
            if sink.hanging.is_set():
                sink.answered.wait(60)
                return
            zipped = self.headers.get("Content-Encoding") == "gzip"
            sink.envelopes.append((gzip.decompress(body) if zipped else body).decode())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it overrides
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sink.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield sink
    finally:
        sink.answered.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
