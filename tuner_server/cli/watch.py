"""`lrpilot watch`."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import typer
from lrpilot.errors import UnavailableError
from lrpilot.schedule import Schedule
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from tuner_server.cli.common import JobArgument, ServerOption, connected, resolve, schedule_of
from tuner_server.cli.curve import WIDTH, curves
from tuner_server.cli.job import facts_table

ASK_AGAIN_S = 2.0
"""After which a server that went away is asked again."""

app = typer.Typer()


@app.command(epilog="Example: `lrpilot watch 3f2a`")
def watch(job: JobArgument, server: ServerOption = None) -> None:
    """Follow a job until it ends: how far it is, and the way of its loss and its LR. Ctrl-C leaves; the job goes on."""
    with connected(server) as tuner:
        job_id = resolve(tuner, job)
        with Live(console=Console()) as live:
            for _ in _changes(tuner, job_id):
                live.update(_picture(schedule_of(tuner, job_id, pb.SCHEDULE_VIEW_FULL)), refresh=True)


def _changes(tuner: GrpcTransport, job_id: str) -> Iterator[pb.Job]:
    """The job now and whenever it changes, until it ends; a server that restarts is waited for. Raises: ServerError."""
    begun = False
    while True:
        stream = tuner.stub.WatchJob(pb.WatchJobRequest(job_id=job_id))
        try:
            while (response := tuner.call(functools.partial(next, stream, None))) is not None:
                begun = True
                yield response.job
            return
        except UnavailableError:
            if not begun:
                raise
        time.sleep(ASK_AGAIN_S)


def _picture(found: pb.GetScheduleResponse) -> Table:
    job, schedule = found.job, Schedule.from_response(found)
    picture = Table.grid()  # a progress bar ends no line by itself
    picture.add_row(facts_table(job))
    if job.config.HasField("total_steps"):
        run = job.committed_steps + job.search_steps
        picture.add_row(ProgressBar(total=job.config.total_steps, completed=run, width=WIDTH))
    if schedule.segments:
        picture.add_row(curves(schedule.losses, schedule.lrs()))
    return picture
