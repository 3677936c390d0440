"""OpenTelemetry: one trace from the producer's publish to the frame, and nothing where it is not asked for."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.eventually import eventually
from tests.integration.gateways import gateway, receive, snapshot
from tests.integration.ledgers import event
from tests.service import Service

TRACE, PRODUCER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REASON = "my account was hacked"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector on loopback: its address, and the spans that came."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            spans.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it overrides
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()
            thread.join()


def test_one_trace_from_the_producer_to_the_frame(service: Service) -> None:
    """Each step below the one that caused it, in the trace of the message; no word of the customer in any."""
    with collector() as (address, spans):
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with service.worker(**told), gateway(service, **told) as web, web.socket() as live:
            snapshot(live)
            headers = {"traceparent": f"00-{TRACE}-{PRODUCER}-01"}
            service.send(event("e1", "billing") | {"reason": REASON}, headers=headers)
            frame = receive(live)
            names = {"redirect_conversation", "update_cache", "save_conversation", "notify_websocket", "live frame"}
            eventually(lambda: {span.name for span in spans if span.trace_id.hex() == TRACE} >= names)

    ours = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    redirect = ours["redirect_conversation"]
    assert redirect.parent_span_id.hex() == PRODUCER
    for copy in ("update_cache", "save_conversation", "notify_websocket"):
        assert ours[copy].parent_span_id == redirect.span_id
    assert ours["live frame"].parent_span_id == ours["notify_websocket"].span_id
    assert frame["traceparent"].split("-")[1] == TRACE
    assert REASON not in "".join(map(str, spans))


def test_without_a_collector_a_frame_is_that_of_the_contract(service: Service) -> None:
    """No field more, whatever the producer's message carries."""
    with service.worker(), gateway(service) as web, web.socket() as live:
        snapshot(live)
        service.send(event("e1"), headers={"traceparent": f"00-{TRACE}-{PRODUCER}-01"})
        assert "traceparent" not in json.dumps(receive(live))


def test_a_traceparent_that_is_none_costs_no_redirect(service: Service) -> None:
    """It is as good as missing, with tracing on and nobody there to collect."""
    wrong = ["no traceparent", f"00-{'0' * 32}-{'0' * 16}-01", "", "x" * 1000]
    with service.worker(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"):
        for number, header in enumerate(wrong):
            service.send(event(f"e{number}", "billing", f"c{number}"), headers={"traceparent": header})
        eventually(lambda: len(service.redirects()) == len(wrong))
        eventually(service.agrees)
