"""The commands that change the plan of a job while it runs."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf import json_format
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_STEPS
from lrpilot.wire.plan_change import BatchScaling
from lrpilot.wire.plan_change_proto import SCALINGS

from tuner_server.cli.common import TIMEOUT_S, JobArgument, JsonOption, ServerOption, connected, print_json, resolve
from tuner_server.core.errors import InvalidInputError

WHEN = "It takes effect with the job's next report on steps that stay."
"""What every one of these commands says of its job."""

ReasonOption = Annotated[str, typer.Option(help="Why, for whoever looks at the job.")]

app = typer.Typer()


@app.command(epilog="Example: `lrpilot extend 3f2a --steps 2000`")
def extend(
    job: JobArgument,
    steps: Annotated[
        int, typer.Option(min=1, max=MAX_STEPS, help="Optimizer steps, search included.", show_default=False)
    ],
    server: ServerOption = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a job run on for so many steps more than it is planned for. The training program has to make them, too."""
    with connected(server) as tuner:
        job_id = resolve(tuner, job)
        total_steps = _planned_end(tuner, job_id) + steps
        change = pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, total_steps=total_steps, reason=reason)
        found = _asked(tuner, job_id, change)
    _tell(found, f"will end at step {total_steps}, {steps} later", as_json=as_json)


@app.command(epilog="Example: `lrpilot anneal 3f2a --steps 500`")
def anneal(
    job: JobArgument,
    steps: Annotated[
        int, typer.Option(min=1, max=MAX_STEPS, help="Optimizer steps of the annealing.", show_default=False)
    ],
    server: ServerOption = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a job's LR fall to zero over so many steps, and end the job there."""
    with connected(server) as tuner:
        change = pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_ANNEAL, anneal_steps=steps, reason=reason)
        found = _asked(tuner, resolve(tuner, job), change)
    _tell(found, f"will anneal to zero over {steps} steps", as_json=as_json)


@app.command(epilog='Example: `lrpilot replan 3f2a --batch-factor 2 --reason "twice as many GPUs"`')
def replan(
    job: JobArgument,
    server: ServerOption = None,
    reason: ReasonOption = "",
    batch_factor: Annotated[
        float | None, typer.Option(help="The new batch size over the old one, if it has changed.", show_default=False)
    ] = None,
    batch_scaling: Annotated[BatchScaling, typer.Option(help="How the LR follows the batch size.")] = BatchScaling.SQRT,
    as_json: JsonOption = False,
) -> None:
    """Say that a job goes on with other data, batches or weights, so that its LR is planned anew."""
    with connected(server) as tuner:
        change = pb.PlanChange(
            kind=pb.PLAN_CHANGE_KIND_REPLAN,
            batch_factor=batch_factor,
            batch_scaling=SCALINGS[batch_scaling],
            reason=reason,
        )
        found = _asked(tuner, resolve(tuner, job), change)
    _tell(found, "will be planned anew", as_json=as_json)


def _planned_end(tuner: GrpcTransport, job_id: str) -> int:
    """The end of a job with the changes that wait. Raises: InvalidInputError: it has none."""
    found = tuner.call(lambda: tuner.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S)).job
    for change in reversed(found.requested):
        if change.kind == pb.PLAN_CHANGE_KIND_EXTEND:
            return change.total_steps
        if change.kind == pb.PLAN_CHANGE_KIND_ANNEAL:
            raise InvalidInputError.of(
                "job", f"{job_id} is about to anneal, to an end that its next report tells; ask again then"
            )
    if not found.HasField("total_steps"):
        raise InvalidInputError.of("job", f"{job_id} has no end that could be moved; `lrpilot anneal` gives it one")
    return found.total_steps


def _asked(tuner: GrpcTransport, job_id: str, change: pb.PlanChange) -> pb.Job:
    """Asks for a change; the job with it. Raises: LRPilotError."""
    request = pb.ChangePlanRequest(job_id=job_id, change=change)
    return tuner.call(lambda: tuner.stub.ChangePlan(request, timeout=TIMEOUT_S)).job


def _tell(job: pb.Job, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(json_format.MessageToDict(job))
    else:
        print(f"{job.id} {what}. {WHEN}")
