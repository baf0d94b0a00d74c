from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tuner_server.ops.tracing import Tracing
from tuner_server.rpc.telemetry import Call
from tuner_server.service.pipeline_observer import PipelineObserver, PipelineTask

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Iterator[Tracing]:
    opened = Tracing(spans, PipelineObserver())
    yield opened
    opened.close()


def call(**metadata: str) -> Call:
    return Call("/lrpilot.v1.TunerService/Advance", tuple(metadata.items()), "r-1", time.perf_counter())


def finished(tracing: Tracing, spans: InMemorySpanExporter) -> list[ReadableSpan]:
    tracing.close()
    return list(spans.get_finished_spans())


def test_a_call_continues_the_trace_of_its_client(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    with tracing.call(call(traceparent=PARENT)), structlog.contextvars.bound_contextvars(job_id="j", stage=2):
        pass
    (span,) = finished(tracing, spans)
    assert span.name == "lrpilot.v1.TunerService/Advance"
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == PARENT[3:-3]
    assert span.attributes is not None
    assert span.attributes["lrpilot.request_id"] == "r-1"
    assert span.attributes["rpc.response.status_code"] == "OK"
    assert span.status.is_unset


def test_a_call_that_we_failed_is_an_error(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    for code in ("UNAVAILABLE", "NOT_FOUND"):
        failed = call()
        with tracing.call(failed):
            failed.code = code
    ours, theirs = finished(tracing, spans)
    assert not ours.status.is_ok
    assert not ours.status.is_unset
    assert theirs.status.is_unset


def test_work_for_one_report_is_below_its_call_and_for_several_is_linked(
    tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    origins = []
    for _ in range(2):
        with tracing.call(call()):
            origins.append(tracing.origin())
    with tracing.working(PipelineTask.DECIDE, origins[:1]):
        pass
    with tracing.working(PipelineTask.COMMIT, origins):
        pass
    first, second, decide, commit = finished(tracing, spans)
    assert (decide.name, commit.name) == ("decide", "commit")
    assert decide.parent is not None
    assert first.context is not None
    assert second.context is not None
    assert decide.parent.span_id == first.context.span_id
    assert commit.parent is None
    assert [link.context.span_id for link in commit.links] == [first.context.span_id, second.context.span_id]
    assert commit.attributes is not None
    assert commit.attributes["lrpilot.reports"] == 2
