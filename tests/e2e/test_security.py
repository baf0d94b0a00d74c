"""Who may do what: tokens, projects, limits and TLS, at a real port; whatever is refused changes nothing."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import gc
import os
import socket
import sqlite3
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import lrpilot
import pytest
import trustme
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lrpilot.credentials import Credentials
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

import tuner_server
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tests.support.servers import wire_client
from tests.support.servers.faulty_proxy import Cut, Direction, Proxy
from tests.support.servers.guarded_server import GuardedServer, add_project, add_token, guarded
from tests.support.servers.wire_client import TIMEOUT_S, directive_from_pb
from tuner_server.access.principal import Scope
from tuner_server.access.records import Grant, Limits
from tuner_server.access.shares import ARRIVAL_S, LIMITS, Lane, Shares
from tuner_server.access.tls import TlsFiles, server_credentials
from tuner_server.access.token import Token
from tuner_server.core.errors import InvalidInputError, StorageError
from tuner_server.rpc.auth import SCOPES
from tuner_server.rpc.convert import config_to_pb
from tuner_server.rpc.limits import MAX_METADATA_BYTES, MAX_REPORT_BYTES, MAX_REQUEST_BYTES, MAX_STREAMS
from tuner_server.rpc.status import DETAILS_KEY
from tuner_server.storage.access import AccessStorage, open_access

SERVICE = pb.DESCRIPTOR.services_by_name["TunerService"]
METHODS = [method.name for method in SERVICE.methods]
CONFIG = config(800, **QUICK)
SETTINGS_FRAME, MAX_CONCURRENT_STREAMS = 4, 3
"""Numbers of HTTP/2 (RFC 9113, sections 6.5 and 6.5.2)."""
Refusal = tuple[grpc.StatusCode, str]
Metadata = tuple[tuple[str, str], ...]


@dataclasses.dataclass
class World:
    """A server, its database, and two projects: the first has a job."""

    server: GuardedServer
    file: Path
    access: AccessStorage
    ours: Token
    theirs: Token
    job_id: str
    report: pb.Report

    def dump(self) -> list[str]:
        """All that is stored."""
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            return list(connection.iterdump())

    def request(self, method: str) -> Any:
        """A request that is right for the owner of the job."""
        requests: dict[str, Any] = {
            "CreateJob": pb.CreateJobRequest(request_id="another", config=config_to_pb(CONFIG)),
            "Advance": pb.AdvanceRequest(job_id=self.job_id, report=self.report),
            "ResumeJob": pb.ResumeJobRequest(job_id=self.job_id, directive_number=1),
            "ListJobs": pb.ListJobsRequest(),
            "CancelJob": pb.CancelJobRequest(job_id=self.job_id),
            "ChangePlan": pb.ChangePlanRequest(
                job_id=self.job_id, change=pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_REPLAN)
            ),
            "Beat": pb.BeatRequest(job_id=self.job_id, directive_number=1, steps=3),
            "LeaveJob": pb.LeaveJobRequest(job_id=self.job_id),
            "DescribeJob": pb.DescribeJobRequest(job_id=self.job_id, name="another", note="noted"),
            "DeleteJob": pb.DeleteJobRequest(job_id=self.job_id, force=True),
            "GetSchedule": pb.GetScheduleRequest(job_id=self.job_id, view=pb.SCHEDULE_VIEW_FULL),
        }
        of_job = {
            "GetJob": pb.GetJobRequest,
            "StreamSchedule": pb.StreamScheduleRequest,
            "WatchJob": pb.WatchJobRequest,
        }
        return requests[method] if method in requests else of_job[method](job_id=self.job_id)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    file = tmp_path_factory.mktemp("security") / "lrpilot.db"
    url = f"sqlite:///{file}"
    with open_access(url) as access, guarded(url) as server:
        for name in ("ours", "theirs"):
            add_project(access, name)
        ours, theirs = add_token(access, "ours"), add_token(access, "theirs")
        with connected(server, ours) as stub:
            created = wire_client.create(stub, CONFIG)
            report = wire_client.report_to_pb(SimulatedTraining().run(directive_from_pb(created.directive)))
        yield World(server, file, access, ours, theirs, created.job.id, report)


@contextlib.contextmanager
def connected(server: GuardedServer, token: Token | None) -> Iterator[tuner_pb2_grpc.TunerServiceStub]:
    credentials = None if token is None else Credentials(token=token.text)
    with contextlib.closing(GrpcTransport(server.target, credentials)) as transport:
        yield transport.stub


def called(stub: Any, method: str, request: Any, **options: Any) -> Any:
    """The answer, or the first of a stream."""
    if method in ("StreamSchedule", "WatchJob"):
        stream = getattr(stub, method)(request, timeout=TIMEOUT_S, **options)
        try:
            return next(stream)
        finally:
            stream.cancel()
    return getattr(stub, method)(request, timeout=TIMEOUT_S, **options)


def refusal(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert isinstance(caught.value, grpc.Call)
    details = caught.value.details() or ""
    assert "Traceback" not in details
    assert ".py" not in details
    return caught.value.code(), details


def raw(server: GuardedServer, method: str, message: bytes, metadata: Metadata) -> Refusal:
    """Bytes that need not be a message."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.target, options=options) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE.full_name}/{method}")
        return refusal(lambda: call(message, metadata=metadata, timeout=TIMEOUT_S))


def bearer(token: Token) -> Metadata:
    return (("authorization", f"Bearer {token.text}"),)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_every_rpc_needs_a_scope() -> None:
    assert set(SCOPES) == {f"/{SERVICE.full_name}/{name}" for name in METHODS}


@pytest.mark.parametrize("kind", ["none", "malformed", "unknown", "wrong secret", "expired", "revoked", "basic", "two"])
def test_without_a_valid_token_no_rpc_does_anything(world: World, kind: str) -> None:
    expired = add_token(world.access, "ours", expires_in=timedelta(hours=1), age=timedelta(hours=2))
    revoked = add_token(world.access, "ours")
    world.access.revoke_token(revoked.id, datetime.now(UTC))
    metadata = {
        "none": (),
        "malformed": (("authorization", "Bearer lrp_nope"),),
        "unknown": bearer(Token.new()),
        "wrong secret": bearer(dataclasses.replace(world.ours, secret=Token.new().secret)),
        "expired": bearer(expired),
        "revoked": bearer(revoked),
        "basic": (("authorization", f"Basic {world.ours.text}"),),
        "two": (*bearer(world.theirs), *bearer(world.ours)),
    }[kind]
    before = world.dump()
    with connected(world.server, None) as stub:
        found = {
            refusal(functools.partial(called, stub, name, world.request(name), metadata=metadata)) for name in METHODS
        }
    ((code, details),) = found
    assert code is grpc.StatusCode.UNAUTHENTICATED
    words = {"none": "is needed", "expired": "has expired", "revoked": "was revoked"}
    assert words.get(kind, "is not valid") in details
    assert world.dump() == before


@pytest.mark.parametrize("scope", Scope)
def test_a_token_allows_what_its_scope_says(world: World, scope: Scope) -> None:
    token = add_token(world.access, "ours", scope)
    before = world.dump()
    with connected(world.server, token) as stub:
        for name in METHODS:
            if SCOPES[f"/{SERVICE.full_name}/{name}"] is not scope:
                code, details = refusal(functools.partial(called, stub, name, world.request(name)))
                assert code is grpc.StatusCode.PERMISSION_DENIED
                assert f"{name} needs scope" in details
        assert world.dump() == before
        if scope is Scope.READ:
            assert called(stub, "GetJob", world.request("GetJob")).job.id == world.job_id
    if scope is Scope.TRAIN:
        with connected(world.server, token) as stub:
            assert called(stub, "ResumeJob", world.request("ResumeJob")).job.id == world.job_id


def test_a_job_of_another_project_does_not_exist(world: World) -> None:
    before = world.dump()
    with connected(world.server, world.theirs) as stub:
        for name in METHODS:
            if name == "Beat":  # it is answered the same whether there is such a job or not, and written later
                called(stub, name, world.request(name))
            elif name not in ("CreateJob", "ListJobs"):
                code, details = refusal(functools.partial(called, stub, name, world.request(name)))
                assert (code, details) == (grpc.StatusCode.NOT_FOUND, f"no job has the id {world.job_id!r}")
        assert not called(stub, "ListJobs", pb.ListJobsRequest()).jobs
    assert world.dump() == before


def test_projects_do_not_share_request_ids(world: World) -> None:
    ids = set()
    for token in (world.ours, world.theirs):
        with connected(world.server, token) as stub:
            ids.add(wire_client.create(stub, CONFIG, "the same in both").job.id)
    assert len(ids) == 2


def test_a_stream_ends_with_its_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tuner_server.access.authenticator", "tuner_server.rpc.auth"):
        monkeypatch.setattr(f"{module}.FRESH_S", 0.1)
    token = add_token(world.access, "ours")
    with connected(world.server, token) as stub:
        stream = stub.WatchJob(world.request("WatchJob"), timeout=TIMEOUT_S)
        assert next(stream).job.id == world.job_id
        world.access.revoke_token(token.id, datetime.now(UTC))
        code, details = refusal(lambda: next(stream))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "revoked" in details


def test_health_is_for_all_and_reflection_for_those_with_a_token(world: World) -> None:
    listing = reflection_pb2.ServerReflectionRequest(list_services="*")
    with grpc.insecure_channel(world.server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = health_pb2.HealthCheckRequest()
        assert health.Check(request, timeout=TIMEOUT_S).status == health_pb2.HealthCheckResponse.SERVING
        watching = health.Watch(request, timeout=TIMEOUT_S)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()
        found = refusal(lambda: next(reflection.ServerReflectionInfo(iter([listing]), timeout=TIMEOUT_S)))
        assert found[0] is grpc.StatusCode.UNAUTHENTICATED
        answers = reflection.ServerReflectionInfo(iter([listing]), metadata=bearer(world.theirs), timeout=TIMEOUT_S)
        assert [answer.HasField("list_services_response") for answer in answers] == [True]


class Away:
    """A database that can't be asked."""

    def find(self, token_id: str) -> Grant | None:
        raise StorageError("sqlite:///lrpilot.db: unable to open database file")


def test_a_database_that_is_away_makes_nobody_a_stranger(tmp_path: Path) -> None:
    with guarded(f"sqlite:///{tmp_path}/lrpilot.db", grants=Away()) as server, connected(server, Token.new()) as stub:
        assert refusal(lambda: called(stub, "ListJobs", pb.ListJobsRequest()))[0] is grpc.StatusCode.UNAVAILABLE


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_project_that_calls_too_often_is_told_when_to_come_again(world: World) -> None:
    add_project(world.access, "eager", Limits(max_calls_per_s=4.0))
    token = add_token(world.access, "eager")
    with connected(world.server, token) as stub:
        for _ in range(2):
            called(stub, "ListJobs", pb.ListJobsRequest())
        with pytest.raises(grpc.RpcError) as caught:
            [called(stub, "ListJobs", pb.ListJobsRequest()) for _ in range(20)]
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = dict(caught.value.trailing_metadata() or ())[DETAILS_KEY]
        assert isinstance(details, bytes)
        retry = error_details_pb2.RetryInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(retry)
        assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 0.25
        with connected(world.server, world.theirs) as others:
            called(others, "ListJobs", pb.ListJobsRequest())
    # A client that keeps to it gets everything done.
    with contextlib.closing(GrpcTransport(world.server.target, Credentials(token=token.text))) as transport:
        for _ in range(3):
            created = transport.create_job(world.request("CreateJob"), TIMEOUT_S)
            transport.resume_job(pb.ResumeJobRequest(job_id=created.job.id, directive_number=1), TIMEOUT_S)


def test_a_quota_of_jobs_is_a_refusal_without_a_time(world: World) -> None:
    add_project(world.access, "small", Limits(max_alive_jobs=1))
    with connected(world.server, add_token(world.access, "small")) as stub:
        first = wire_client.create(stub, CONFIG, "first").job.id
        with pytest.raises(grpc.RpcError) as caught:
            wire_client.create(stub, CONFIG, "second")
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert limits_key(caught.value) is None
        called(stub, "CancelJob", pb.CancelJobRequest(job_id=first))
        wire_client.create(stub, CONFIG, "second")


def limits_key(call: grpc.Call) -> str | bytes | None:
    return dict(call.trailing_metadata() or ()).get("grpc-retry-pushback-ms")


@contextlib.contextmanager
def limited(world: World, lane: Lane, arrival_s: float = ARRIVAL_S, **changes: int) -> Iterator[GuardedServer]:
    """Another server on the same database, with other limits."""
    limits = dict(LIMITS) | {lane: dataclasses.replace(LIMITS[lane], **changes)}
    with guarded(f"sqlite:///{world.file}", shares=Shares(limits=limits, arrival_s=arrival_s)) as server:
        yield server


def test_streams_are_not_without_number_and_are_given_back(world: World) -> None:
    with (
        limited(world, Lane.READING, streams=2) as server,
        connected(server, world.ours) as stub,
        connected(server, world.theirs) as others,
    ):
        open_streams = [stub.WatchJob(world.request("WatchJob"), timeout=TIMEOUT_S) for _ in range(2)]
        for stream in open_streams:
            next(stream)
        code, details = refusal(lambda: next(stub.WatchJob(world.request("WatchJob"), timeout=TIMEOUT_S)))
        assert (code, "2 streams" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        called(stub, "GetJob", world.request("GetJob"))
        theirs = wire_client.create(others, CONFIG).job.id
        called(others, "WatchJob", pb.WatchJobRequest(job_id=theirs))
        open_streams[0].cancel()
        deadline = time.monotonic() + TIMEOUT_S
        while True:  # the server hears of the end a moment later
            try:
                called(stub, "WatchJob", world.request("WatchJob"))
                break
            except grpc.RpcError:
                assert time.monotonic() < deadline


def test_large_requests_at_the_same_time_are_held_back(world: World) -> None:
    with limited(world, Lane.TRAINING, n_bytes=10) as server, connected(server, world.ours) as stub:
        code, details = refusal(lambda: called(stub, "Advance", world.request("Advance")))
        assert (code, "being worked on" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        called(stub, "ListJobs", pb.ListJobsRequest())


def test_a_message_that_does_not_come_is_not_waited_for(world: World) -> None:

    def never() -> Iterator[bytes]:
        time.sleep(2.0)
        yield b""

    with (
        limited(world, Lane.READING, arrival_s=0.2) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        call: Any = channel.stream_unary(f"/{SERVICE.full_name}/GetJob")
        for requests, words in ((never(), "arrive"), (iter(()), "missing")):
            code, details = refusal(functools.partial(call, requests, metadata=bearer(world.ours), timeout=TIMEOUT_S))
            assert (code, words in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message(world: World, method: str) -> None:
    before = world.dump()
    for message in (b"\xff" * 10, b"\x0a\xff", b"\x08", b"\x0f"):
        code, details = raw(world.server, method, message, bearer(world.ours))
        assert code is grpc.StatusCode.INVALID_ARGUMENT, (message, details)
    assert world.dump() == before


@pytest.mark.parametrize("method", METHODS)
def test_a_message_that_is_too_large(world: World, method: str) -> None:
    before = world.dump()
    largest = MAX_REPORT_BYTES if method == "Advance" else MAX_REQUEST_BYTES
    code, details = raw(world.server, method, bytes(largest + 1), bearer(world.ours))
    expected = grpc.StatusCode.RESOURCE_EXHAUSTED if method == "Advance" else grpc.StatusCode.INVALID_ARGUMENT
    assert code is expected
    assert str(largest) in details
    assert world.dump() == before


def test_a_message_that_is_too_large_only_when_unpacked(world: World) -> None:
    with grpc.insecure_channel(world.server.target, options=[("grpc.max_send_message_length", -1)]) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE.full_name}/Advance")
        options: dict[str, Any] = {"compression": grpc.Compression.Gzip, "metadata": bearer(world.ours)}
        found = refusal(lambda: call(bytes(4 * MAX_REPORT_BYTES), timeout=TIMEOUT_S, **options))
    assert found[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_largest_report_of_losses_is_read(world: World) -> None:
    report = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED)
    report.losses.extend([1.0] * (MAX_REPORT_BYTES // 4 - 100))
    with connected(world.server, world.ours) as stub:
        code, details = refusal(lambda: called(stub, "Advance", pb.AdvanceRequest(job_id=world.job_id, report=report)))
    assert (code, "report.losses" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_what_was_refused_is_let_go_of(world: World) -> None:
    n_losses = 200_000
    report = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, losses=[1.5] * n_losses)
    request = pb.AdvanceRequest(job_id=world.job_id, report=report)
    with connected(world.server, world.ours) as stub:
        refusal(lambda: called(stub, "Advance", request))
        gc.collect()
        gc.disable()  # large objects don't hasten it, so nothing may wait for it
        tracemalloc.start()
        try:
            for _ in range(5):
                refusal(lambda: called(stub, "Advance", request))
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < 2 * 32 * n_losses  # two of them at most: a lane keeps its last group until the next one comes


def test_nothing_keeps_a_call_that_was_refused(world: World) -> None:
    # gRPC keeps what ends a call: with it neither the message, nor what was read of it, nor the call itself.
    report = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, losses=[1.5] * 200_000)
    request = pb.AdvanceRequest(job_id=world.job_id, report=report)

    def calls_kept() -> int:
        return sum(type(each).__name__ in ("_ServicerContext", "AdvanceRequest") for each in gc.get_objects())

    with (
        limited(world, Lane.TRAINING, n_bytes=10) as full,
        connected(world.server, world.ours) as stub,
        connected(full, world.ours) as refused_stub,
    ):
        gc.collect()
        gc.disable()  # large objects don't hasten it
        try:
            before = calls_kept()
            for _ in range(10):
                assert refusal(lambda: called(stub, "Advance", request))[0] is grpc.StatusCode.INVALID_ARGUMENT
                code, _ = refusal(lambda: called(refused_stub, "Advance", request))
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                refusal(lambda: next(stub.WatchJob(pb.WatchJobRequest(job_id="none"), timeout=TIMEOUT_S)))
            assert calls_kept() - before < 10, "those that end just now"
        finally:
            gc.enable()


def test_a_call_that_waits_for_its_turn_sends_little_ahead(world: World) -> None:
    message, ahead = bytes(4 * 2**20), 2**19
    with (
        limited(world, Lane.TRAINING, arriving=0, arriving_large=0) as server,
        Proxy(server.target) as proxy,
        grpc.insecure_channel(proxy.target, options=[("grpc.enable_retries", 0)]) as channel,
    ):

        def send(method: str, timeout_s: float) -> grpc.StatusCode:
            call: Any = channel.unary_unary(f"/{SERVICE.full_name}/{method}")
            return refusal(functools.partial(call, message, metadata=bearer(world.ours), timeout=timeout_s))[0]

        for _ in range(5):  # messages that are taken show how much the line takes, and more might be sent ahead
            assert send("GetJob", TIMEOUT_S) is grpc.StatusCode.INVALID_ARGUMENT
        proxy.begin(Cut(Direction.REQUESTS, ahead))
        assert send("Advance", 1.0) is grpc.StatusCode.DEADLINE_EXCEEDED, f"more than {ahead} bytes were sent"


def test_a_stranger_s_message_is_not_read(world: World) -> None:
    # More than may be sent at all: whoever read it would say so.
    assert raw(world.server, "Advance", bytes(2 * MAX_REPORT_BYTES), ())[0] is grpc.StatusCode.UNAUTHENTICATED


def test_headers_that_are_too_large(world: World) -> None:
    metadata = (*bearer(world.ours), ("x-large", "x" * 2 * MAX_METADATA_BYTES))
    assert raw(world.server, "ListJobs", b"", metadata)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_rpc_that_is_not_there(world: World) -> None:
    assert raw(world.server, "DropJobs", b"", bearer(world.ours))[0] is grpc.StatusCode.UNIMPLEMENTED
    assert raw(world.server, "DropJobs", b"", ())[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: tuner\r\n\r\n",
        bytes(range(256)) * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        # A HEADERS frame that says it is 16 MB long, after valid settings.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + b"\xff\xff\xff\x01\x04\0\0\0\x01",
        b"",
    ],
    ids=["http1", "bytes", "frames", "long headers", "nothing"],
)
def test_garbage_on_the_port_changes_nothing(world: World, data: bytes) -> None:
    before = world.dump()
    host, _, port = world.server.target.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(TIMEOUT_S)
        while connection.recv(65536):
            pass
    with connected(world.server, world.ours) as stub:
        assert called(stub, "GetJob", world.request("GetJob")).job.id == world.job_id
    assert world.dump() == before


def test_a_connection_is_told_how_many_calls_it_may_have(world: World) -> None:
    """Headers take memory before anybody looks at them; so much of it is one connection's."""
    host, _, port = world.server.target.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        stream = connection.makefile("rb")
        head = stream.read(9)
        assert head[3] == SETTINGS_FRAME
        told = dict(struct.iter_unpack(">HI", stream.read(int.from_bytes(head[:3]))))
    assert told[MAX_CONCURRENT_STREAMS] == MAX_STREAMS <= LIMITS[Lane.HEALTH].calls / 2


# --- TLS --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Pki:
    """An authority with a server's and a client's certificate, in files."""

    directory: Path
    authority: trustme.CA

    def issue(self, name: str, *identities: str, authority: trustme.CA | None = None) -> tuple[Path, Path]:
        """Certificate and key."""
        issued = (authority or self.authority).issue_cert(*identities)
        cert, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return cert, key

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        path = self.directory / "ca.pem"
        self.authority.cert_pem.write_to_path(path)
        return path


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"), trustme.CA())


def listed(target: str, credentials: Credentials) -> list[pb.Job]:
    with contextlib.closing(GrpcTransport(target, credentials)) as transport:
        return list(transport.call(lambda: transport.stub.ListJobs(pb.ListJobsRequest(), timeout=TIMEOUT_S)).jobs)


def test_tls_with_the_right_authority_and_name_alone(pki: Pki, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lrpilot.db"
    cert, key = pki.issue("server", "localhost", "127.0.0.1")
    with open_access(url) as access:
        token = add_token(access, "default").text
    with guarded(url, TlsFiles(cert, key)) as server:
        assert listed(server.target, Credentials(token=token, ca_file=pki.ca)) == []
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(other)
        for credentials in (Credentials(token=token), Credentials(token=token, ca_file=other)):
            with pytest.raises(lrpilot.UnavailableError):
                listed(server.target, credentials)
    elsewhere = TlsFiles(*pki.issue("elsewhere", "tuner.example.com"))
    with guarded(url, elsewhere) as server, pytest.raises(lrpilot.UnavailableError):
        listed(server.target, Credentials(token=token, ca_file=pki.ca))


def test_mutual_tls(pki: Pki, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lrpilot.db"
    cert, key = pki.issue("mutual", "127.0.0.1")
    client_cert, client_key = pki.issue("client", "trainer")
    wrong_cert, wrong_key = pki.issue("wrong", "trainer", authority=trustme.CA())
    with open_access(url) as access:
        token = add_token(access, "default").text
    with guarded(url, TlsFiles(cert, key, pki.ca)) as server:
        right = Credentials(token=token, ca_file=pki.ca, cert_file=client_cert, key_file=client_key)
        assert listed(server.target, right) == []
        with pytest.raises(lrpilot.RefusedError):  # a certificate is no token
            listed(server.target, dataclasses.replace(right, token=None))
        for wrong in (
            dataclasses.replace(right, cert_file=None, key_file=None),
            dataclasses.replace(right, cert_file=wrong_cert, key_file=wrong_key),
        ):
            with pytest.raises(lrpilot.UnavailableError):
                listed(server.target, wrong)


def test_renewed_certificates_are_used_without_a_restart(pki: Pki, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lrpilot.db"
    renewing = Pki(tmp_path, trustme.CA())
    cert, key = renewing.issue("server", "127.0.0.1")
    with open_access(url) as access:
        token = add_token(access, "default").text
    with guarded(url, TlsFiles(cert, key)) as server:
        assert listed(server.target, Credentials(token=token, ca_file=renewing.ca)) == []
        pki_issued = Pki(tmp_path, pki.authority)
        former = key.read_bytes()
        pki_issued.issue("server", "127.0.0.1")
        renewed = key.read_bytes()
        key.write_bytes(former)  # half of a renewal: certificate and key don't fit
        assert listed(server.target, Credentials(token=token, ca_file=renewing.ca)) == []
        key.write_bytes(renewed)
        assert listed(server.target, Credentials(token=token, ca_file=pki.ca)) == []


def test_files_that_can_not_be_used_name_their_setting(pki: Pki, tmp_path: Path) -> None:
    cert, key = pki.issue("checked", "localhost")
    other_cert, _ = pki.issue("unfit", "localhost")
    missing, garbage = tmp_path / "missing.pem", tmp_path / "garbage.pem"
    garbage.write_text("nope")
    open_key = tmp_path / "open.key"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    pipe = tmp_path / "pipe.pem"
    os.mkfifo(pipe)  # nobody writes into it
    for files, words in (
        (TlsFiles(pipe, key), "tls_cert: .*pipe.pem: it is no regular file"),
        (TlsFiles(missing, key), "tls_cert: .*missing.pem: No such file"),
        (TlsFiles(cert, missing), "tls_key: .*missing.pem: No such file"),
        (TlsFiles(cert, key, missing), "tls_client_ca: .*missing.pem: No such file"),
        (TlsFiles(garbage, key), "tls_cert: .*garbage.pem"),
        (TlsFiles(cert, key, garbage), "tls_client_ca: .*garbage.pem: no PEM"),
        (TlsFiles(other_cert, key), "tls_cert: .*unfit.pem and .*checked.key"),
        (TlsFiles(cert, open_key), "tls_key: .*open.key can be read by all users"),
    ):
        with pytest.raises(InvalidInputError, match=words) as caught:
            server_credentials(files)
        assert "\n" not in str(caught.value)


# --- the code ---------------------------------------------------------------------------------------------------------

EXECUTING_MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
EXECUTING_CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path"}
"""What turns bytes into running code."""
IN_MEMORY = {("batch_copy.py", "pickle"), ("packing.py", "torch.load")}
"""Where it is used on what the run itself has just made, and on nothing that was read: copies of a batch, and what the
ranks of one training send each other, as torch.distributed does with any object."""


def executed(tree: ast.AST) -> Iterator[str]:
    """Whatever in a module would run what it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name.partition(".")[0] in EXECUTING_MODULES)
            case ast.ImportFrom(module=str(name)) if name.partition(".")[0] in EXECUTING_MODULES:
                yield name
            case ast.Call(func=function, keywords=keywords):
                name, given = ast.unparse(function), {each.arg: ast.unparse(each.value) for each in keywords}
                careless = name == "torch.load" and given.get("weights_only") != "True"
                if name in EXECUTING_CALLS or careless or given.get("allow_pickle", "False") != "False":
                    yield name


@pytest.mark.parametrize("package", [tuner_server, lrpilot], ids=lambda package: package.__name__)
def test_nothing_that_is_read_is_ever_run(package: Any) -> None:
    (root,) = package.__path__
    files = sorted(Path(root).rglob("*.py"))
    assert len(files) > 20
    found = {(file.name, what) for file in files for what in executed(ast.parse(file.read_text()))}
    assert found - IN_MEMORY == set()


@pytest.mark.parametrize(
    "code", ["import pickle", "from joblib import load", "eval(x)", "torch.load(f)", "np.load(f, allow_pickle=True)"]
)
def test_what_would_be_run_is_found(code: str) -> None:
    assert list(executed(ast.parse(code)))
