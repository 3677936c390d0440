"""What a trace tells of an error: that there was one, and of what kind."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from config import tracing


def test_a_span_holds_no_text_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a database's, which quotes the row, or a store's, which quotes an address."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))

    with pytest.raises(ValueError, match="hunter2"), tracing.span("outer"), tracing.span("inner", kind="cache"):
        raise ValueError("hunter2")

    told = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(told) == 2
    assert all("ValueError" in one and "ERROR" in one and "hunter2" not in one for one in told)
