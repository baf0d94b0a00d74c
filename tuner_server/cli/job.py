"""The commands that look at one job, or end it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from lrpilot.errors import ScheduleError
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.unsearched import probe_steps
from rich.table import Table
from rich.text import Text

from tuner_server.base.terminal import Terminal, say
from tuner_server.cli.common import (
    TIMEOUT_S,
    JobArgument,
    JsonOption,
    ServerOption,
    connected,
    full_schedule,
    optional,
    print_json,
    remark,
    resolve,
    schedule_of,
    state_of,
    unsearched,
    writing,
)

app = typer.Typer()


@app.command(epilog="Example: `lrpilot show 3f2a --json`")
def show(job: JobArgument, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show a job: how far it is, what it does, its stages, and the way of its loss and its LR."""
    with connected(server) as tuner:
        found = schedule_of(tuner, job, pb.SCHEDULE_VIEW_BASIC if as_json else pb.SCHEDULE_VIEW_FULL)
    if as_json:
        print_json(json_format.MessageToDict(found))
        return
    from tuner_server.cli.picture import laid_out, picture

    console = Terminal()
    console.print(facts_table(found.job))
    console.print(picture(found.job, laid_out(found)))


@app.command(epilog="Example: `lrpilot export 3f2a -o schedule.json`, then in Python `lrpilot.Schedule.load(...)`")
def export(
    job: JobArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    server: ServerOption = None,
) -> None:
    """Write a job's schedule, with its history, as JSON."""
    schedule = full_schedule(server, job)
    with writing(output):
        schedule.save(output)


@app.command(epilog="Example: `lrpilot stretch schedule.json --steps 20000 -o longer.json`")
def stretch(
    file: Annotated[Path, typer.Argument(help="A saved schedule, as `lrpilot export` writes it.")],
    steps: Annotated[int, typer.Option(help="The steps of the other run, at least 1.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    length_exponent: Annotated[
        float, typer.Option(help="Multiply the LRs by (old steps / new steps)^this; 0: they stay.")
    ] = 0.0,
) -> None:
    """Write a saved schedule for a run of another length: every part keeps its share of the steps."""
    try:
        schedule = Schedule.load(file)
    except OSError as error:
        remedy = "`lrpilot export JOB -o FILE` writes the file of a job's schedule"
        raise ScheduleError(f"{file}: {error.strerror}; {remedy}") from error
    stretched = schedule.stretched(steps, length_exponent=length_exponent)
    with writing(output):
        stretched.save(output)
    print(f"{output}: {schedule.n_steps} steps stretched to {stretched.n_steps}")


@app.command(epilog="Example: `lrpilot plot 3f2a -o schedule.png`")
def plot(
    job: JobArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write: .png, .svg or .pdf.")],
    server: ServerOption = None,
) -> None:
    """Draw LR and loss over steps, probes apart."""
    schedule = full_schedule(server, job)
    with writing(output):
        schedule.plot(output)


@app.command(epilog='Example: `lrpilot cancel 3f2a --reason "wrong data"`')
def cancel(
    job: JobArgument,
    server: ServerOption = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at the job.")] = "",
    as_json: JsonOption = False,
) -> None:
    """End the tuning of a job. Its training goes on, and anneals its LR."""
    with connected(server) as tuner:
        request = pb.CancelJobRequest(job_id=resolve(tuner, job), reason=reason)
        found = tuner.call(lambda: tuner.stub.CancelJob(request, timeout=TIMEOUT_S)).job
    if as_json:
        print_json(json_format.MessageToDict(found))
    else:
        say(f"{found.id} cancelled")


def facts_table(job: pb.Job) -> Table:
    """How far a job is."""
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(job).items():
        table.add_row(Text(name, style="bold"), value)
    return table


def _steps(job: pb.Job) -> str:
    """What stayed, what the search took, and what was committed and rolled back."""
    total = f" of {job.total_steps}" if job.HasField("total_steps") else ""
    parts = [f"{job.committed_steps} committed"]
    if not unsearched(job):
        parts.append(f"{probe_steps(job)} search")
    if job.given_back_steps:
        parts.append(f"{job.given_back_steps} rolled back")
    return f"{' + '.join(parts)}{total}{remark(job)}"


def _facts(job: pb.Job) -> dict[str, str]:
    return {
        "job": job.id,
        "name": job.config.name or "-",
        "policy": job.config.policy,
        "state": f"{state_of(job)} {job.message}".strip(),
        "steps": _steps(job),
        "bounds": f"{job.lr_bounds.min:.3g} to {job.lr_bounds.max:.3g}" if job.HasField("lr_bounds") else "-",
        "loss": f"{optional(job, 'last_loss')} (best {optional(job, 'best_loss')})",
        "validation": f"{optional(job, 'last_validation')} (best {optional(job, 'best_validation')})",
        "wall time": f"{job.wall_time_s:.1f} s",
    }
