"""`lrpilot watch`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator

import typer
from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import JobArgument, ServerOption, connected, resolve, schedule_of
from tuner_server.cli.curve import COLUMNS, WIDTH
from tuner_server.cli.job import facts_table

ASK_AGAIN_S = 2.0
"""Seconds after which a server that went away is asked again."""

_SEARCHES = (pb.PHASE_RANGE_TEST, pb.PHASE_PROBE)

app = typer.Typer()


@app.command(epilog="Example: `lrpilot watch 3f2a`")
def watch(job: JobArgument, server: ServerOption = None) -> None:
    """Follow a job until it ends: what it does, its stages, and the way of its loss and its LR. Ctrl-C leaves it be."""
    with connected(server) as tuner, Live(console=Terminal(), auto_refresh=False) as live:
        changes = _changes(tuner, resolve(tuner, job))
        for shown in pictures(changes, lambda job_id: schedule_of(tuner, job_id, pb.SCHEDULE_VIEW_FULL)):
            live.update(shown, refresh=True)


def pictures(changes: Iterable[pb.Job], fetch: Callable[[str], pb.GetScheduleResponse]) -> Iterator[RenderableType]:
    """What is shown of a job at each of its changes.

    Args:
        changes: the job, whenever it changed.
        fetch: gives the schedule of a job, with its history, for the job's id.

    Raises:
        What `fetch` does; UnavailableError only from the first one, since later the changes break off and begin anew.
    """
    from tuner_server.cli.picture import laid_out, picture

    history, fetched = None, None
    for now in changes:
        if history is None or fetched is None or is_behind(fetched, now):
            try:
                found = fetch(now.id)
            except UnavailableError:
                if history is None:
                    raise
                continue
            history, fetched, now = laid_out(found), found.job, found.job
        yield Group(_progress(now), picture(now, history))


def is_behind(fetched: pb.Job, now: pb.Job) -> bool:
    """Whether a history that was fetched with a job as it was then is worth fetching again, losses and all.

    It is when another phase or stage has come, a probe has ended, committed steps were rolled back, the plan has
    changed, or the curves would be a column longer.
    """
    searching = now.directive.phase in _SEARCHES
    if (now.state, now.stage, now.directive.phase) != (fetched.state, fetched.stage, fetched.directive.phase):
        return True
    if now.given_back_steps != fetched.given_back_steps:
        return True
    replanned = now.directive.HasField("change") and now.directive.number != fetched.directive.number
    if replanned or now.total_steps != fetched.total_steps:
        return True
    if searching and now.directive.number != fetched.directive.number:
        return True
    run, then = _run(now), _run(fetched)
    whole = now.total_steps if now.HasField("total_steps") else run
    return run < then or (run - then) * COLUMNS >= whole


def _run(job: pb.Job) -> int:
    """Steps that were run."""
    return job.committed_steps + job.search_steps


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


def _progress(job: pb.Job) -> Table:
    """How far a job is; the bar, which ends no line by itself, is a row of it."""
    table = Table.grid()
    table.add_row(facts_table(job))
    if job.HasField("total_steps"):
        table.add_row(ProgressBar(total=job.total_steps, completed=_run(job), width=WIDTH))
    return table
