"""The commands that look at one job, describe it, end it or delete it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from lrpilot.errors import ScheduleError
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.text.job_names import called
from lrpilot.wire.text.plain_text import plain
from lrpilot.wire.unsearched import probe_steps
from rich.table import Table
from rich.text import Text

from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import (
    SHORT_ID,
    TIMEOUT_S,
    JobArgument,
    JsonOption,
    ServerOption,
    connected,
    full_schedule,
    optional,
    print_json,
    readable,
    remark,
    resolve,
    schedule_of,
    state_of,
    unsearched,
    vitals_now,
    writing,
)
from tuner_server.cli.telling import tell_done
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job.life import Life

app = typer.Typer()


@app.command(epilog="Example: `lrpilot show 3f2a --json`")
def show(job: JobArgument, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show a job: how far it is, what it does, its stages, and the way of its loss and its LR."""
    with readable(server) as tuner:
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
    tell_done(f"{output}: {schedule.n_steps} steps stretched to {stretched.n_steps}")


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
    _tell(found, "cancelled", as_json=as_json)


@app.command(epilog='Example: `lrpilot note 3f2a "the one with the new tokenizer"`')
def note(
    job: JobArgument,
    text: Annotated[str, typer.Argument(help="What to note on it; an empty text takes the note away.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Note something on a job, for whoever looks at it. There is one note; another takes its place."""
    found = _described(server, job, note=text)
    _tell(found, "has the note" if text else "has no note any more", as_json=as_json)


@app.command(epilog="Example: `lrpilot rename 3f2a resnet-2`")
def rename(
    job: JobArgument,
    name: Annotated[str, typer.Argument(help="The new name; an empty one takes the name away.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a job another name."""
    _tell(_described(server, job, name=name), "is renamed", as_json=as_json)


@app.command(epilog="Example: `lrpilot delete 3f2a --yes`")
def delete(
    job: JobArgument,
    server: ServerOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a job whose client is there, which then opens it anew.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a job, with its history. This can't be undone."""
    with connected(server) as tuner:
        job_id = resolve(tuner, job)
        if not yes:
            found = tuner.call(lambda: tuner.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=TIMEOUT_S)).job
            _confirm(found)
        request = pb.DeleteJobRequest(job_id=job_id, force=force)
        found = tuner.call(lambda: tuner.stub.DeleteJob(request, timeout=TIMEOUT_S)).job
    _tell(found, "deleted", as_json=as_json)


def _described(server: str | None, job: str, **fields: str) -> pb.Job:
    """The job, once it has another name or note. Raises: LRPilotError."""
    with connected(server) as tuner:
        request = pb.DescribeJobRequest(job_id=resolve(tuner, job), **fields)
        return tuner.call(lambda: tuner.stub.DescribeJob(request, timeout=TIMEOUT_S)).job


def _confirm(job: pb.Job) -> None:
    """Asks whether to delete a job. Raises: InvalidInputError: nobody can be asked, or the answer is no."""
    if not sys.stdin.isatty():
        raise InvalidInputError.of("yes", "there is no terminal to ask on; give --yes")
    name = called(job.config.name, job.id)
    question = f"Delete job {job.id[:SHORT_ID]} ({name}), {state_of(job)}, {job.committed_steps} steps?"
    try:
        agreed = typer.confirm(plain(question), err=True)
    except typer.Abort:  # Ctrl-C, or the end of the input
        agreed = False
    if not agreed:
        raise InvalidInputError.of("yes", "nothing was deleted")


def _tell(job: pb.Job, what: str, *, as_json: bool) -> None:
    tell_done(f"{job.id} {what}", json_format.MessageToDict(job) if as_json else None)


def facts_table(job: pb.Job) -> Table:
    """How far a job is."""
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(job).items():
        table.add_row(Text(name, style="bold"), value)
    return table


def in_a_line(job: pb.Job) -> str:
    """How far a job is, for output that is no terminal."""
    return f"{state_of(job)}: {_steps(job)}, loss {optional(job, 'last_loss')}"


def _steps(job: pb.Job) -> str:
    """What stayed, what the search took, and what was committed and rolled back."""
    total = f" of {job.total_steps}" if job.HasField("total_steps") else ""
    parts = [f"{job.committed_steps} committed"]
    if not unsearched(job):
        parts.append(f"{probe_steps(job)} search")
    if job.given_back_steps:
        parts.append(f"{job.given_back_steps} rolled back")
    return f"{' + '.join(parts)}{total}{remark(job)}"


def _said_of(job: pb.Job) -> dict[str, str]:
    """What is to be said of its client, and what somebody has noted, as far as there is something."""
    vitals = vitals_now(job)
    said = {"client": vitals.sentence, "note": job.note}
    if vitals.life is Life.ALIVE:
        said["client"] = f"gave its last sign {vitals.ago}"
    return {name: value for name, value in said.items() if value}


def _facts(job: pb.Job) -> dict[str, str]:
    return {
        "job": job.id,
        "name": called(job.config.name, job.id),
        "policy": job.config.policy,
        "state": ": ".join(filter(None, (state_of(job), job.message))),
        **_said_of(job),
        "steps": _steps(job),
        "bounds": f"{job.lr_bounds.min:.3g} to {job.lr_bounds.max:.3g}" if job.HasField("lr_bounds") else "-",
        "loss": f"{optional(job, 'last_loss')} (best {optional(job, 'best_loss')})",
        "validation": f"{optional(job, 'last_validation')} (best {optional(job, 'best_validation')})",
        "wall time": f"{job.wall_time_s:.1f} s",
    }
