"""The client's side of the wire: directives off it, reports onto it, and a loop that drives a job over gRPC."""

from __future__ import annotations

import uuid

from lrpilot.convert import profile_from_proto, profile_to_proto
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from tests.support.simulated import SimulatedTraining
from tuner_server.core.config import JobConfig
from tuner_server.core.messages import Directive, Phase, Report
from tuner_server.rpc.convert import BATCH_SOURCES, OUTCOMES, PHASES, config_to_pb, known

TIMEOUT_S = 30.0


def directive_from_pb(message: pb.Directive) -> Directive:
    """A directive."""
    return Directive(
        number=message.number,
        phase=known("phase", PHASES, message.phase),
        stage=message.stage,
        n_steps=message.n_steps,
        profile=profile_from_proto(message.profile) if message.HasField("profile") else None,
        restore=message.restore,
        snapshot=message.snapshot,
        batches=known("batches", BATCH_SOURCES, message.batches),
        validate_at=tuple(message.validate_at),
        give_up_above=message.give_up_above if message.HasField("give_up_above") else None,
        report_every=message.report_every,
        reason=message.reason,
    )


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
