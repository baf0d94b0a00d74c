"""The commands that change the plan of a job while it runs."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer
from google.protobuf import json_format
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_STEPS
from lrpilot.wire.messages.plan_changes import SCALINGS
from lrpilot.wire.plan_change import BatchScaling

from tuner_server.cli.common import TIMEOUT_S, JobArgument, JsonOption, ServerOption, connected, resolve
from tuner_server.cli.telling import tell_done

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
        change = pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, later_steps=steps, reason=reason)
        found = _asked(tuner, resolve(tuner, job), change)
    _tell(found, f"will end {steps} steps later", as_json=as_json)


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
    """Let a job's LR fall over so many steps, and end the job there."""
    with connected(server) as tuner:
        change = pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_ANNEAL, anneal_steps=steps, reason=reason)
        found = _asked(tuner, resolve(tuner, job), change)
    _tell(found, f"will anneal over {steps} steps", as_json=as_json)


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


def _asked(tuner: GrpcTransport, job_id: str, change: pb.PlanChange) -> pb.Job:
    """Asks for a change; the job with it. Raises: LRPilotError."""
    change.request_id = str(uuid.uuid4())
    request = pb.ChangePlanRequest(job_id=job_id, change=change)
    return tuner.call(lambda: tuner.stub.ChangePlan(request, timeout=TIMEOUT_S)).job


def _tell(job: pb.Job, what: str, *, as_json: bool) -> None:
    tell_done(f"{job.id} {what}. {WHEN}", json_format.MessageToDict(job) if as_json else None)
