"""A server process on a real port and a real file, as its clients and its operators meet it."""

from __future__ import annotations

import contextlib
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from tests.support.jobs.simulated_training import QUICK, Run, SimulatedTraining, config, drive
from tests.support.servers import server_process, wire_client
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.wire_client import TIMEOUT_S, directive_from_pb
from tuner_server.core.job import schedule
from tuner_server.core.messages import Directive, Phase
from tuner_server.rpc.convert import config_to_pb
from tuner_server.rpc.schedule_messages import segment_to_pb
from tuner_server.rpc.status import DETAILS_KEY
from tuner_server.storage import open_storage

SERVICE = "lrpilot.v1.TunerService"
CONFIG = config(800, has_validation=True, **QUICK)
Stub = tuner_pb2_grpc.TunerServiceStub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("server")
    with server_process.running(f"sqlite:///{directory}/lrpilot.db") as running:
        yield running


@pytest.fixture
def stub(server: ServerProcess) -> Stub:
    return server.stub


def alone(seed: int = 0) -> Run:
    """The same job in a plain loop with no server."""
    return drive(CONFIG.model_copy(update={"seed": seed}), SimulatedTraining(seed, validates=True))


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, list[str]]:
    """The status of a call, its message, and the fields that it finds wrong."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert isinstance(error, grpc.Call)
    details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if details is None:
        return error.code(), error.details() or "", []
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    request = error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(request)
    return error.code(), error.details() or "", [violation.field for violation in request.field_violations]


# --- the RPCs ---------------------------------------------------------------------------------------------------------


def test_a_job_from_its_creation_to_its_schedule(stub: Stub) -> None:
    training = SimulatedTraining(validates=True)
    job_id, directives = wire_client.drive(stub, CONFIG, training)
    expected = alone()
    assert directives == expected.directives

    job = stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S).job
    assert job.state == pb.JOB_STATE_FINISHED
    assert (job.committed_steps, job.search_steps) == (expected.state.committed_steps, expected.state.search_steps)
    assert (job.last_loss, job.best_loss) == (expected.state.last_loss, expected.state.best_loss)

    basic = stub.GetSchedule(pb.GetScheduleRequest(job_id=job_id), timeout=TIMEOUT_S)
    outline = schedule.Outline.of(expected.exchanges)
    assert list(basic.segments) == [segment_to_pb(segment) for segment in outline.segments]
    assert len(basic.history) == 0
    request = pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_FULL)
    full = stub.GetSchedule(request, timeout=TIMEOUT_S)
    assert list(full.segments) == list(basic.segments)
    assert [entry.committed for entry in full.history] == schedule.committed(expected.exchanges)
    for entry, exchange in zip(full.history, expected.exchanges, strict=True):
        assert directive_from_pb(entry.directive) == exchange.directive
        assert entry.HasField("decision") is (exchange.decision is not None)
        if exchange.report is not None:
            assert entry.report == wire_client.report_to_pb(exchange.report)


def test_creation_is_idempotent_and_a_used_request_id_is_aborted(stub: Stub) -> None:
    first = wire_client.create(stub, CONFIG, "twice")
    second = wire_client.create(stub, CONFIG, "twice")
    assert first == second
    other = CONFIG.model_copy(update={"seed": 5})
    code, message, _ = refused(lambda: wire_client.create(stub, other, "twice"))
    assert code is grpc.StatusCode.ABORTED
    assert "request_id" in message


def test_a_repeated_report_gets_the_stored_answer_another_one_is_refused(stub: Stub) -> None:
    created = wire_client.create(stub, CONFIG)
    report = SimulatedTraining(validates=True).run(directive_from_pb(created.directive))
    answer = wire_client.advance(stub, created.job.id, report)
    assert wire_client.advance(stub, created.job.id, report) == answer
    other = report.model_copy(update={"wall_time_s": 99.0})
    code, _, _ = refused(lambda: wire_client.advance(stub, created.job.id, other))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    ahead = report.model_copy(update={"directive_number": 3})
    code, message, _ = refused(lambda: wire_client.advance(stub, created.job.id, ahead))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "not the outstanding 2" in message


def test_bad_input_names_its_fields(stub: Stub) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT

    def create(message: pb.JobConfig, request_id: str = "bad") -> tuple[grpc.StatusCode, list[str]]:
        request = pb.CreateJobRequest(request_id=request_id, config=message)
        code, _, fields = refused(lambda: stub.CreateJob(request, timeout=TIMEOUT_S))
        return code, fields

    assert create(pb.JobConfig(total_steps=0, seed=-1)) == (invalid, ["total_steps", "base_lr", "seed"])
    assert create(config_to_pb(config(400, tua=3.0))) == (invalid, ["policy_options.tua"])
    assert create(config_to_pb(CONFIG.model_copy(update={"policy": "magic"}))) == (invalid, ["policy"])
    assert create(config_to_pb(CONFIG), request_id="") == (invalid, ["request_id"])
    infinite = config_to_pb(CONFIG)
    infinite.policy_options.fields["kappa"].number_value = float("inf")
    assert create(infinite) == (invalid, ["policy_options"])

    created = wire_client.create(stub, CONFIG)
    report = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, losses=[1.0] * 3)
    request = pb.AdvanceRequest(job_id=created.job.id, report=report)
    code, _, fields = refused(lambda: stub.Advance(request, timeout=TIMEOUT_S))
    assert (code, fields) == (invalid, ["report.losses"])
    request.report.outcome = pb.OUTCOME_UNSPECIFIED
    code, _, fields = refused(lambda: stub.Advance(request, timeout=TIMEOUT_S))
    assert (code, fields) == (invalid, ["report.outcome"])

    for listing, field in [
        (pb.ListJobsRequest(page_size=-1), "page_size"),
        (pb.ListJobsRequest(page_size=1001), "page_size"),
        (pb.ListJobsRequest(page_token="?"), "page_token"),
        (pb.ListJobsRequest(states=[pb.JOB_STATE_UNSPECIFIED]), "states"),
    ]:
        code, _, fields = refused(lambda listing=listing: stub.ListJobs(listing, timeout=TIMEOUT_S))  # type: ignore[misc]  # bound now
        assert (code, fields) == (invalid, [field])


def test_an_unknown_job_is_not_found(stub: Stub) -> None:
    report = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, losses=[1.0])
    calls: list[Callable[[], object]] = [
        lambda: stub.GetJob(pb.GetJobRequest(job_id="none"), timeout=TIMEOUT_S),
        lambda: stub.Advance(pb.AdvanceRequest(job_id="none", report=report), timeout=TIMEOUT_S),
        lambda: stub.CancelJob(pb.CancelJobRequest(job_id="none"), timeout=TIMEOUT_S),
        lambda: stub.ResumeJob(pb.ResumeJobRequest(job_id="none"), timeout=TIMEOUT_S),
        lambda: stub.GetSchedule(pb.GetScheduleRequest(job_id="none"), timeout=TIMEOUT_S),
        lambda: list(stub.WatchJob(pb.WatchJobRequest(job_id="none"), timeout=TIMEOUT_S)),
    ]
    assert {refused(call)[0] for call in calls} == {grpc.StatusCode.NOT_FOUND}


def test_listing_pages_and_filters(stub: Stub) -> None:
    family = CONFIG.model_copy(update={"family": "listed"})
    ids = [wire_client.create(stub, family).job.id for _ in range(5)]
    stub.CancelJob(pb.CancelJobRequest(job_id=ids[1]), timeout=TIMEOUT_S)
    seen: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        request = pb.ListJobsRequest(page_size=2, page_token=token, family="listed")
        page = stub.ListJobs(request, timeout=TIMEOUT_S)
        seen += [job.id for job in page.jobs]
        token, pages = page.next_page_token, pages + 1
    assert (seen, pages) == (ids[::-1], 3)
    request = pb.ListJobsRequest(family="listed", states=[pb.JOB_STATE_CANCELLED])
    assert [job.id for job in stub.ListJobs(request, timeout=TIMEOUT_S).jobs] == [ids[1]]


def test_cancel_answers_the_open_probe_with_stop(stub: Stub) -> None:
    created = wire_client.create(stub, CONFIG)
    request = pb.CancelJobRequest(job_id=created.job.id, reason="wrong data")
    job = stub.CancelJob(request, timeout=TIMEOUT_S).job
    assert (job.state, job.message) == (pb.JOB_STATE_CANCELLED, "wrong data")
    report = SimulatedTraining(validates=True).run(directive_from_pb(created.directive))
    stop = wire_client.advance(stub, created.job.id, report)
    assert (stop.phase, stop.restore) == (Phase.STOP, True)
    code, _, _ = refused(lambda: stub.CancelJob(request, timeout=TIMEOUT_S))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def test_resume_gives_an_earlier_directive_again(stub: Stub) -> None:
    created = wire_client.create(stub, CONFIG)
    training = SimulatedTraining(validates=True)
    first = directive_from_pb(created.directive)
    second = wire_client.advance(stub, created.job.id, training.run(first))
    for number, directive in ((2, second), (1, first)):
        request = pb.ResumeJobRequest(job_id=created.job.id, directive_number=number)
        assert directive_from_pb(stub.ResumeJob(request, timeout=TIMEOUT_S).directive) == directive
    request = pb.ResumeJobRequest(job_id=created.job.id, directive_number=2)
    code, _, _ = refused(lambda: stub.ResumeJob(request, timeout=TIMEOUT_S))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_watched_job_is_seen_now_after_a_change_and_at_its_end(stub: Stub) -> None:
    created = wire_client.create(stub, CONFIG)
    stream = stub.WatchJob(pb.WatchJobRequest(job_id=created.job.id), timeout=TIMEOUT_S)
    assert next(stream).job == created.job
    report = SimulatedTraining(validates=True).run(directive_from_pb(created.directive))
    wire_client.advance(stub, created.job.id, report)
    assert next(stream).job.directive.number == 2
    stub.CancelJob(pb.CancelJobRequest(job_id=created.job.id), timeout=TIMEOUT_S)
    assert [message.job.state for message in stream] == [pb.JOB_STATE_CANCELLED]


def test_reflection_lists_the_services(server: ServerProcess) -> None:
    names = ProtoReflectionDescriptorDatabase(server.channel).get_services()
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= set(names)


@pytest.mark.parametrize("name", ["", SERVICE])
def test_health_is_serving(server: ServerProcess, name: str) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_jobs_at_once_come_out_as_each_alone(stub: Stub) -> None:
    def run(seed: int) -> list[Directive]:
        asked = CONFIG.model_copy(update={"seed": seed})
        return wire_client.drive(stub, asked, SimulatedTraining(seed, validates=True))[1]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(8)))
    assert together == [alone(seed).directives for seed in range(8)]


# --- the process ------------------------------------------------------------------------------------------------------


def test_sigterm_says_not_serving_drains_and_exits_with_0(tmp_path: Path) -> None:
    with server_process.running(f"sqlite:///{tmp_path}/lrpilot.db", "--grace-s", "1") as server:
        created = wire_client.create(server.stub, CONFIG)
        watch = server.stub.WatchJob(pb.WatchJobRequest(job_id=created.job.id), timeout=TIMEOUT_S)
        assert next(watch).job == created.job
        health = health_pb2_grpc.HealthStub(server.channel)
        states = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT_S)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        server.signal(signal.SIGTERM)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert refused(lambda: next(watch))[0] is grpc.StatusCode.UNAVAILABLE
        states.cancel()  # which would go on until the grace is over
        code, log = server.wait()
        assert code == 0
        assert "Traceback" not in log
        assert "event=stopped" in log


def test_sigterm_ends_a_server_whose_owner_lives_on(tmp_path: Path) -> None:
    """Its standard input is still open, and a thread of it waits there."""
    with server_process.running(f"sqlite:///{tmp_path}/lrpilot.db") as server:
        server.signal(signal.SIGTERM)
        assert server.process.wait(server_process.STOP_TIMEOUT_S) == 0


def test_the_end_of_standard_input_ends_a_server_that_was_asked_to(tmp_path: Path) -> None:
    with server_process.running(f"sqlite:///{tmp_path}/lrpilot.db") as server:
        code, _ = server.wait()  # which closes it
        assert code == 0


def test_a_port_in_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        process = server_process.start(f"sqlite:///{tmp_path}/lrpilot.db", listen=listen)
        output, errors = process.communicate(timeout=server_process.STOP_TIMEOUT_S)
    assert process.returncode == 2
    assert output == ""
    assert errors.splitlines() == [f"lrpilot: listen: {listen} can't be bound: Address already in use"]


def test_a_database_of_a_newer_version_is_one_line_and_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lrpilot.db"
    with open_storage(url):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "lrpilot.db")) as database:
        database.execute("UPDATE lrpilot_schema_version SET version_num = 'of the future'")
        database.commit()
        before = list(database.iterdump())
    process = server_process.start(url)
    output, errors = process.communicate(timeout=server_process.STOP_TIMEOUT_S)
    assert process.returncode == 1
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("lrpilot: ")
    assert "newer version" in line
    with contextlib.closing(sqlite3.connect(tmp_path / "lrpilot.db")) as database:
        assert list(database.iterdump()) == before


def test_a_server_killed_between_reports_changes_nothing(tmp_path: Path) -> None:
    """After each restart the client, which may not have heard the last answer, sends its last report again."""
    url = f"sqlite:///{tmp_path}/lrpilot.db"
    expected = alone().directives
    training = SimulatedTraining(validates=True)
    kills = {3, len(expected) // 2}
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(server_process.running(url))
        created = wire_client.create(server.stub, CONFIG, "the one")
        seen = [directive_from_pb(created.directive)]
        while seen[-1].phase is not Phase.STOP:
            report = training.run(seen[-1])
            answer = wire_client.advance(server.stub, created.job.id, report)
            if seen[-1].number in kills:
                server.signal(signal.SIGKILL)
                assert server.process.wait(server_process.STOP_TIMEOUT_S) == -signal.SIGKILL
                server = servers.enter_context(server_process.running(url))
                assert wire_client.create(server.stub, CONFIG, "the one").job.id == created.job.id
                assert wire_client.advance(server.stub, created.job.id, report) == answer
            seen.append(answer)
    assert seen == expected
