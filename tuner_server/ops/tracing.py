"""OpenTelemetry spans for calls, and for the work that is done for groups of reports. Needs `lrpilot[otel]`.

Imported only when traces are wanted: the libraries take their time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tuner_server.core.messages import Outcome
from tuner_server.rpc.telemetry import Call
from tuner_server.service.pipeline_observer import PipelineObserver, PipelineTask

EXPORT_S = 2
"""How long a collector may take; at the end of the process it is waited for."""
_SERVERS_FAULT = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span an error (OpenTelemetry's semantic conventions for RPC)."""


class Tracing(PipelineObserver):
    """Records spans, and passes on what a pipeline tells."""

    def __init__(self, exporter: SpanExporter, inner: PipelineObserver) -> None:
        """Sends spans to `exporter`, from a thread of its own; `inner` hears the pipeline too. Closed after use."""
        resource = Resource.create(
            {"service.name": "lrpilot", "service.version": importlib.metadata.version("lrpilot")}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lrpilot")
        self._propagator = TraceContextTextMapPropagator()
        self._inner = inner

    @contextlib.contextmanager
    def call(self, call: Call) -> Iterator[None]:
        """The span of a call; its parent is the client's, if the client sent `traceparent`."""
        carrier = {key: value for key, value in call.metadata if isinstance(value, str)}
        service, _, method = call.method.removeprefix("/").partition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "lrpilot.request_id": call.request_id,
        }
        with self._tracer.start_as_current_span(
            call.method.removeprefix("/"),
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            attributes,
            record_exception=False,  # a refusal is an exception here; its status says it all
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                bound = structlog.contextvars.get_contextvars()
                span.set_attributes({f"lrpilot.{key}": bound[key] for key in ("job_id", "stage") if key in bound})
                span.set_attribute("rpc.response.status_code", call.code)
                if call.code in _SERVERS_FAULT:
                    span.set_status(StatusCode.ERROR)

    def origin(self) -> SpanContext:
        """The span of the call that a report came with."""
        return trace.get_current_span().get_span_context()

    @contextlib.contextmanager
    def working(self, task: PipelineTask, origins: Sequence[object]) -> Iterator[None]:
        """A span for a task: below its call if it is done for one, linked to its calls if it is done for many."""
        calls = [origin for origin in origins if isinstance(origin, SpanContext) and origin.is_valid]
        parent = trace.set_span_in_context(NonRecordingSpan(calls[0])) if len(calls) == 1 else None
        links = [Link(origin) for origin in calls] if parent is None else []
        with (
            self._tracer.start_as_current_span(
                task.value, parent, attributes={"lrpilot.reports": len(origins)}, links=links
            ),
            self._inner.working(task, origins),
        ):
            yield

    def answered(self, outcome: Outcome, *, searched: bool) -> None:
        """See `PipelineObserver`."""
        self._inner.answered(outcome, searched=searched)

    def repeated(self) -> None:
        """See `PipelineObserver`."""
        self._inner.repeated()

    def conflicted(self) -> None:
        """See `PipelineObserver`."""
        self._inner.conflicted()

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends spans to a collector over gRPC; with TLS if `endpoint` begins with https://."""
    return OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=EXPORT_S)
