"""Plans that change on a server process with a real port and database, which is killed between and comes back."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.servers import server_process
from tests.support.training.planned_run import TOTAL, PlannedRun
from tests.support.training.same_bits import assert_same

TIMEOUT_S = 30.0
EXTEND, REPLAN, ANNEAL = (
    pb.PLAN_CHANGE_KIND_EXTEND,
    pb.PLAN_CHANGE_KIND_REPLAN,
    pb.PLAN_CHANGE_KIND_ANNEAL,
)


@pytest.fixture(params=["sqlite_url", "postgresql_url"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def asked(stub: Any, job_id: str, **change: Any) -> pb.Job:
    request = pb.ChangePlanRequest(job_id=job_id, change=pb.PlanChange(**change))
    job: pb.Job = stub.ChangePlan(request, timeout=TIMEOUT_S).job
    return job


def told(stub: Any, job_id: str) -> list[tuple[int, int, str]]:
    """The changes that took effect: kind, origin and reason."""
    request = pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_FULL)
    history = stub.GetSchedule(request, timeout=TIMEOUT_S).history
    changes = [entry.directive.change for entry in history if entry.directive.HasField("change")]
    return [(change.kind, change.origin, change.reason) for change in changes]


def test_both_sides_change_a_plan_and_a_server_that_is_killed_between_forgets_none_of_it(url: str) -> None:
    with server_process.running(url) as server:
        run = PlannedRun(GrpcTransport(server.target), timeout_s=30.0)
        job_id = run.tuner.job_id
        run.train_to_commit()
        job = asked(server.stub, job_id, kind=EXTEND, total_steps=TOTAL + 100, reason="by somebody")
        assert [change.reason for change in job.requested] == ["by somebody"]
        asked(server.stub, job_id, kind=REPLAN, reason="again")
        server.kill()
        server.restart()
        run.train(120)
        run.tuner.extend(50)
        while run.tuner.searching:
            run.train(1)
        run.train(20)
        before = run.everything()
        run.tuner.anneal(30)
        run.train(10)
        run.tuner.undo_annealing()
        assert_same(run.everything()["model"], before["model"])
        run.train()
        assert run.n_steps == TOTAL + 150
        found = server.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S).job
        assert (found.state, found.total_steps) == (pb.JOB_STATE_FINISHED, TOTAL + 150)
        assert found.committed_steps == run.tuner.committed_step
        changes = told(server.stub, job_id)
        operator, client = pb.PLAN_CHANGE_ORIGIN_OPERATOR, pb.PLAN_CHANGE_ORIGIN_CLIENT
        assert changes[:2] == [(EXTEND, operator, "by somebody"), (REPLAN, operator, "again")]
        kinds = [kind for kind, origin, _ in changes if origin == client]
        assert kinds == [EXTEND, ANNEAL, pb.PLAN_CHANGE_KIND_UNDO_ANNEALING]
        with pytest.raises(grpc.RpcError) as refusal:
            asked(server.stub, job_id, kind=ANNEAL, anneal_steps=5)
        assert isinstance(refusal.value, grpc.Call)
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        run.tuner.close()
