"""The client's side of the wire: reports onto it, and a loop that drives a job over gRPC."""

from __future__ import annotations

import uuid

import grpc
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc
from lrpilot.wire.messages.profiles import profile_to_proto

from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.core.config import JobConfig
from tuner_server.core.messages import Directive, Phase, Report
from tuner_server.rpc.convert import OUTCOMES, WEIGHTS, config_to_pb
from tuner_server.rpc.convert import (
    directive_from_pb as directive_from_pb,  # the other direction, for those who have this
)

TIMEOUT_S = 30.0
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}
"""What a client with a token and no limits is told, according to docs/security.md."""


def report_to_pb(report: Report) -> pb.Report:
    """A report."""
    return pb.Report(
        directive_number=report.directive_number,
        outcome=OUTCOMES[report.outcome],
        losses=report.losses,
        validations=[pb.Validation(step=v.step, loss=v.loss) for v in report.validations],
        wall_time_s=report.wall_time_s,
        replacement=None
        if report.replacement is None
        else pb.Replacement(
            profile=profile_to_proto(report.replacement.profile) if report.replacement.profile else None,
            wasted_steps=report.replacement.wasted_steps,
        ),
        note=report.note,
        measures=[pb.Measure(name=name, values=values) for name, values in report.measures.items()],
        ending=None
        if report.ending is None
        else pb.Ending(
            last=report.ending.last,
            average=report.ending.average,
            adopted=WEIGHTS[report.ending.adopted],
            memory_steps=report.ending.memory_steps,
        ),
    )


def create(stub: tuner_pb2_grpc.TunerServiceStub, config: JobConfig, request_id: str = "") -> pb.CreateJobResponse:
    """Opens a job."""
    request = pb.CreateJobRequest(request_id=request_id or str(uuid.uuid4()), config=config_to_pb(config))
    return stub.CreateJob(request, timeout=TIMEOUT_S)


def advance(stub: tuner_pb2_grpc.TunerServiceStub, job_id: str, report: Report) -> Directive:
    """Sends a report."""
    request = pb.AdvanceRequest(job_id=job_id, report=report_to_pb(report))
    return directive_from_pb(stub.Advance(request, timeout=TIMEOUT_S).directive)


def drive(
    stub: tuner_pb2_grpc.TunerServiceStub, config: JobConfig, training: SimulatedTraining
) -> tuple[str, list[Directive]]:
    """Runs a job to its end: its id, and its directives in order."""
    created = create(stub, config)
    directives = [directive_from_pb(created.directive)]
    while directives[-1].phase is not Phase.STOP:
        directives.append(advance(stub, created.job.id, training.run(directives[-1])))
    return created.job.id, directives
