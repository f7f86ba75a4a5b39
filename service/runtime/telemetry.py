"""OpenTelemetry's traces and metrics over OTLP, with IALP_TELEMETRY=on and the extra `otel`.

Where to, how often and which share is OpenTelemetry's own to configure (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, ...). While it is off we import nothing of it, and a span costs a look at a global.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# What a trace must not tell: a path may name a user, and an address is somebody's.
_PRIVATE = {"url.path", "url.query", "url.full", "http.target", "http.url", "client.address", "net.peer.ip"}

_tracer: Tracer | None = None


class TelemetryError(Exception):
    """It cannot be begun; the message says what to do."""


def begin(role: Literal["api", "worker"]) -> None:
    """Export what this process does from now on, until it ends.

    Raises:
        TelemetryError: the extra is not installed.
    """
    global _tracer
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # the names that are here to stay
    os.environ.setdefault("OTEL_SERVICE_NAME", f"ialp-{role}")
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TelemetryError(f"IALP_TELEMETRY=on needs `pip install 'ialp[otel]'` ({error})") from None

    class WithoutTexts(BatchSpanProcessor):
        """Leaves out the text of exceptions, which may name a user; the log has it."""

        def on_end(self, span: ReadableSpan) -> None:
            span._status = trace.Status(span.status.status_code)
            super().on_end(span)

    traces = TracerProvider(span_limits=SpanLimits(max_events=0))  # an event is an exception with its text
    traces.add_span_processor(WithoutTexts(OTLPSpanExporter()))
    trace.set_tracer_provider(traces)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    _tracer = trace.get_tracer("ialp")


def instrument(app: Any) -> None:
    """Trace each request of a FastAPI application, and measure how long it takes, if `begin` was called."""
    if _tracer is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"], server_request_hook=_anonymous)


def span(name: str, **attributes: str | float) -> contextlib.AbstractContextManager[Any]:
    """A part of what is going on, by name."""
    if _tracer is None:
        return contextlib.nullcontext()
    return _tracer.start_as_current_span(name, attributes={f"ialp.{key}": value for key, value in attributes.items()})


def _anonymous(span: Span, scope: dict[str, Any]) -> None:
    attributes = getattr(span, "attributes", None) or {}
    span.set_attributes(dict.fromkeys(attributes.keys() & _PRIVATE, ""))
