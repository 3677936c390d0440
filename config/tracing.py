"""OpenTelemetry: one trace from the producer's publish to the frame in the browser.

Only where the extra `otel` is installed and OTEL_EXPORTER_OTLP_ENDPOINT says where to; else all of this does nothing.
The context travels as W3C Trace Context (https://www.w3.org/TR/trace-context/): in the header `traceparent` of Celery
messages, and in the field of that name of a live frame.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from config.settings import settings

_tracer: Any = None
TRACEPARENT = "traceparent"


def start(process: str) -> None:
    """Begin to trace this process (`worker`, `web`), before a fork: the SDK restarts its thread in each child."""
    global _tracer  # noqa: PLW0603 - one for the process, as the SDK has it
    if not settings().otlp_endpoint:
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"redirect-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("redirect-worker")


def on() -> bool:
    """Whether this process traces."""
    return _tracer is not None


@contextmanager
def span(name: str, traceparent: object = None, **attributes: str | int) -> Iterator[None]:
    """Until the block ends; below `traceparent`, if it is one, else below the span that is open."""
    if _tracer is None:
        yield
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import StatusCode

    parent = extract({TRACEPARENT: traceparent}) if isinstance(traceparent, str) else None
    # The text of an error may hold what a customer wrote, or an address with its password: its kind is told alone.
    silent = {"record_exception": False, "set_status_on_exception": False}
    with _tracer.start_as_current_span(name, context=parent, attributes=attributes, **silent) as opened:
        try:
            yield
        except Exception as error:
            opened.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def carrier() -> Mapping[str, str]:
    """The open span, as what goes into a message; empty where nothing is traced."""
    if _tracer is None:
        return {}
    from opentelemetry.propagate import inject

    found: dict[str, str] = {}
    inject(found)
    return {TRACEPARENT: found[TRACEPARENT]} if TRACEPARENT in found else {}
