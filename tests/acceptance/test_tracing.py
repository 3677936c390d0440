"""OpenTelemetry: one trace from the producer's publish to the frame, and nothing where it is not asked for."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kombu import Connection, Producer
from opentelemetry import propagate, trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import text

from tests.eventually import eventually
from tests.integration.gateways import Gateway, gateway, receive, snapshot
from tests.integration.ledgers import event
from tests.integration.posting import post
from tests.service import Service
from worker.client import RedirectClient

TRACE, PRODUCER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REASON = "my account was hacked"
COPIES = ("update_cache", "save_conversation", "notify_websocket")


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
            copies = {("redirect_conversation", task) for task in COPIES}
            steps = {(PRODUCER, "redirect_conversation"), *copies, ("notify_websocket", "live frame")}
            eventually(lambda: _steps(spans) == steps)

    assert frame["traceparent"].split("-")[1] == TRACE
    assert REASON not in "".join(map(str, spans))


def _steps(spans: Iterable[Any]) -> set[tuple[str, str]]:
    """Of our trace: what each span is below, and its name. A copy that is written twice has the same steps twice."""
    ours = [span for span in spans if span.trace_id.hex() == TRACE]
    names = {span.span_id: span.name for span in ours}
    return {(names.get(span.parent_span_id, span.parent_span_id.hex()), span.name) for span in ours}


def _by_client(service: Service, _web: Gateway, header: str) -> None:
    context = propagate.extract({"traceparent": header})
    with trace.use_span(trace.get_current_span(context)), RedirectClient(service.broker_url) as client:
        client.redirect("c1", "billing")


def _by_json_queue(service: Service, _web: Gateway, header: str) -> None:
    with Connection(service.broker_url) as connection:
        producer = Producer(connection.default_channel)
        producer.publish(
            event("e2", "billing", "c2"), routing_key="workflow.redirects", headers={"traceparent": header}
        )


def _by_cloudevent(service: Service, _web: Gateway, header: str) -> None:
    cloud: dict[str, Any] = {
        "specversion": "1.0",
        "id": "e3",
        "source": "s",
        "type": "workflow.redirect",
        "subject": "c3",
    }
    cloud |= {"data": {"destination": "billing"}, "traceparent": header}
    with Connection(service.broker_url) as connection:
        Producer(connection.default_channel).publish(cloud, routing_key="workflow.redirects")


def _by_http(_service: Service, web: Gateway, header: str) -> None:
    assert post(web, event("e4", "billing", "c4"), traceparent=header).status == 202


def _by_sql(service: Service, _web: Gateway, header: str) -> None:
    body = json.dumps(event("e5", "billing", "c5") | {"traceparent": header})
    with service.engine.begin() as connection:
        connection.execute(text("SELECT enqueue_redirect(:body)"), {"body": body})


WAYS: list[Callable[[Service, Gateway, str], None]] = [_by_client, _by_json_queue, _by_cloudevent, _by_http, _by_sql]


def _ended(spans: Iterable[Any], name: str, trace: int) -> bool:
    return any(span.name == name and int.from_bytes(span.trace_id) == trace for span in list(spans))


@pytest.mark.slow
def test_every_way_in_is_in_the_trace_of_its_producer(service: Service) -> None:
    """The client, a message's header, a CloudEvent's attribute, a request's header, and a field of the event."""
    with collector() as (address, spans):
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        intake = service.running("worker.intake", ready="reading the JSON queue", **told)
        with service.worker(**told), intake, gateway(service, **told) as web, web.socket() as live:
            snapshot(live)
            for number, way in enumerate(WAYS, 1):
                way(service, web, f"00-{number:032x}-{PRODUCER}-01")
                while (frame := receive(live))["conversation_id"] != f"c{number}":  # a frame may come twice
                    assert frame["conversation_id"] == f"c{number - 1}"
                assert frame["traceparent"].split("-")[1] == f"{number:032x}", way.__name__
                # Until it has ended, it writes what comes next too, in this trace.
                eventually(partial(_ended, spans, "notify_websocket", number))
            eventually(lambda: all(_ended(spans, "live frame", number) for number in range(1, len(WAYS) + 1)))
    begun = [span for span in spans if span.name == "redirect_conversation"]
    assert {span.parent_span_id.hex() for span in begun} == {PRODUCER}


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
