"""The other ways in, each as a producer that writes into the same book as the world's own."""

import json
from collections.abc import Sequence
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from sqlalchemy import text

from tests.chaos.harness.workload import Event, Producer, Sent
from tests.service import Service

HTTP = build_opener(ProxyHandler({}))
# Seconds: the gateway's own patience, and a little.
WITHIN = 15.0


class OverHTTP(Producer):
    """POST /events of the gateway on `port`: acknowledged by 202."""

    def __init__(self, service: Service, sent: Sent, port: int) -> None:
        super().__init__(service, sent)
        self._url = f"http://127.0.0.1:{port}/events"

    def put(self, events: Sequence[Event]) -> None:
        headers = {"Content-Type": "application/json"}
        try:
            with HTTP.open(Request(self._url, json.dumps(list(events)).encode(), headers), timeout=WITHIN) as answer:
                told = json.load(answer)
        except HTTPError as refused:
            refused.close()
            raise
        assert len(told["accepted"]) == len(events), told


class ByOutbox(Producer):
    """Rows of `event_outbox`: acknowledged by the commit."""

    def __init__(self, service: Service, sent: Sent) -> None:
        super().__init__(service, sent)
        self._engine = service.engine

    def put(self, events: Sequence[Event]) -> None:
        insert = text("INSERT INTO event_outbox (body) VALUES (CAST(:body AS jsonb))")
        with self._engine.begin() as connection:
            connection.execute(insert, [{"body": json.dumps(event)} for event in events])
