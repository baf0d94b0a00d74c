"""Client and server of different revisions of the contract: a refusal that names the side to upgrade; no run ends."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest
from lrpilot.errors import RefusedError
from lrpilot.transport import grpc_transport
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.revision import REVISION, REVISION_KEY

from tests.support.servers import server_process
from tests.support.servers.server_process import ServerProcess
from tests.support.training.quick_run import Run, assert_annealed


def _listing(server: ServerProcess, told: str) -> grpc.RpcError | None:
    try:
        server.stub.ListJobs(pb.ListJobsRequest(), metadata=((REVISION_KEY, told),), timeout=10)
    except grpc.RpcError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("told", "words"),
    [(str(REVISION + 1), "upgrade the server"), ("0", "upgrade the client"), ("9" * 50, "a number"), ("x", "a number")],
)
def test_another_revision_is_refused_and_told_what_to_upgrade(
    shared_server: ServerProcess, told: str, words: str
) -> None:
    error = _listing(shared_server, told)

    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert words in (error.details() or "")


def test_who_tells_no_revision_is_answered(shared_server: ServerProcess) -> None:
    shared_server.stub.ListJobs(pb.ListJobsRequest(), timeout=10)


def test_a_run_goes_on_without_a_server_of_another_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(grpc_transport, "REVISION", REVISION + 1)
    with server_process.running(f"sqlite:///{tmp_path / 'jobs.db'}") as server, caplog.at_level(logging.WARNING):
        transport = GrpcTransport(server.target)
        with pytest.raises(RefusedError, match="upgrade the server"):
            transport.get_schedule(pb.GetScheduleRequest(job_id="0" * 32), 5.0)
        transport.close()
        run = Run()
        tuner = run.tuner(GrpcTransport(server.target), lr_bounds=(1e-3, 1.0))
        run.train(tuner)

    assert_annealed(run, tuner)
    assert "upgrade the server" in caplog.text
