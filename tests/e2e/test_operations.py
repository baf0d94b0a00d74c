"""What operators see of a server, and do to it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lrpilot.v1 import tuner_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.crashes import checking_clients
from tests.support.crashes.checking_clients import CheckingClients
from tests.support.servers import operated_server, server_process, wire_client
from tests.support.servers.postgresql import PostgreSQL
from tests.support.servers.server_process import ServerProcess
from tests.support.waiting import wait_until
from tuner_server.rpc.telemetry import REQUEST_ID

SERVICE = "lrpilot.v1.TunerService"
SECRET = "lrp_0123456789ab_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"


def health(server: ServerProcess, service: str = SERVICE) -> int:
    """As gRPC's health service has it."""
    stub = health_pb2_grpc.HealthStub(server.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=wire_client.TIMEOUT_S).status
    return status


def test_readiness_and_health_follow_the_database(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with operated_server.operated(postgresql_url) as server:
        assert server.readiness() == (200, {"ready": True, "database": "up", "workers": "1 of 1"})
        assert {health(server.process), health(server.process, "")} == {serving}
        postgresql_server.stop()
        try:
            wait_until(lambda: server.readiness()[0] == 503)
            assert health(server.process) == not_serving
            _, found = server.readiness()
            assert found["database"] not in ("", "up")
            assert server.metric("lrpilot_database_up") == 0
            assert server.get("/livez") == (200, "ok\n")  # to restart it would help nobody
        finally:
            postgresql_server.start()
        wait_until(lambda: server.readiness()[0] == 200)
        wait_until(lambda: health(server.process) == serving)


def test_sigterm_under_load_drains_and_loses_nothing(sqlite_url: str) -> None:
    """Every client compares its job with one that nobody disturbed."""
    with (
        server_process.running(sqlite_url) as server,
        CheckingClients([server.target], checking_clients.configs(4)) as jobs,
    ):
        jobs.wait_for(10)
        server.signal(signal.SIGTERM)
        assert server.process.wait(server_process.STOP_TIMEOUT_S) == 0
        server.kill()
        server.restart()
        jobs.wait_for(10)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes spans."""
        self.spans += [
            span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[str, Collector]]:
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]  # as above
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", collector
    server.stop(None).wait()


def told_id(call: Any) -> str:
    """The request id that a client was told."""
    (found,) = [value for key, value in call.trailing_metadata() if key == REQUEST_ID]
    return str(found)


def lines(log: str) -> list[dict[str, object]]:
    """Of a log in JSON."""
    return [json.loads(line) for line in log.splitlines()]


def test_a_call_is_known_by_its_request_id_in_answer_log_and_trace(
    sqlite_url: str, collector: tuple[str, Collector]
) -> None:
    endpoint, received = collector
    config = checking_clients.configs(1)[0]
    with operated_server.operated(sqlite_url, "--log-format", "json", "--otlp-endpoint", endpoint) as server:
        stub = server.process.stub
        created = wire_client.create(stub, config)
        report = wire_client.report_to_pb(
            checking_clients.training(config).run(wire_client.directive_from_pb(created.directive))
        )
        secret = ("authorization", f"Bearer {SECRET}")
        request = pb.AdvanceRequest(job_id=created.job.id, report=report)
        answer, call = stub.Advance.with_call(
            request, timeout=wire_client.TIMEOUT_S, metadata=((REQUEST_ID, "mine-1"), secret)
        )
        assert answer.directive.number == 2
        assert told_id(call) == "mine-1"
        unknown = pb.GetJobRequest(job_id="0" * 32)
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetJob(unknown, timeout=wire_client.TIMEOUT_S, metadata=((REQUEST_ID, "no id"), secret))
        own = told_id(refused.value)
        assert own != "no id"  # what clients write into our log has to look like an id
        labels = {"method": f"{SERVICE}/Advance", "code": "OK"}
        assert server.metric("lrpilot_rpcs_total", **labels) == 1
        assert server.metric("lrpilot_rpc_seconds_count", method=f"{SERVICE}/Advance") == 1
        assert server.metric("lrpilot_rpcs_total", method=f"{SERVICE}/GetJob", code="NOT_FOUND") == 1
        assert sum(n for (name, _), n in server.metrics().items() if name == "lrpilot_reports_total") == 1
        code, log = server.process.wait()
        assert code == 0
    assert SECRET.rpartition("_")[2] not in log
    calls = {line["request_id"]: line for line in lines(log) if line["event"] == "call"}
    advance = calls["mine-1"]
    assert (advance["rpc"], advance["code"], advance["job_id"]) == ("Advance", "OK", created.job.id)
    assert {"stage", "phase", "seconds"} <= advance.keys()
    assert (calls[own]["rpc"], calls[own]["code"]) == ("GetJob", "NOT_FOUND")
    spans = {span.name: span for span in received.spans}
    assert {"decide", "commit", f"{SERVICE}/Advance", f"{SERVICE}/GetJob"} <= spans.keys()
    assert spans["commit"].trace_id == spans[f"{SERVICE}/Advance"].trace_id


def test_others_are_not_served_without_protection(sqlite_url: str) -> None:
    process = server_process.start(sqlite_url, listen="0.0.0.0:0")
    output, errors = process.communicate(timeout=server_process.STOP_TIMEOUT_S)
    assert (process.returncode, output) == (2, "")
    assert "--insecure" in errors
    assert len(errors.splitlines()) == 1
