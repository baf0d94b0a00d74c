"""`lrpilot watch`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import typer
from lrpilot.errors import UnavailableError
from lrpilot.transport.job_stream import JobStream
from lrpilot.v1 import tuner_pb2 as pb
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from tuner_server.base.terminal import Terminal, say
from tuner_server.cli.common import JobArgument, ServerOption, connected, resolve, schedule_of
from tuner_server.cli.curve import COLUMNS, WIDTH
from tuner_server.cli.job import facts_table, in_a_line

_SEARCHES = (pb.PHASE_RANGE_TEST, pb.PHASE_PROBE)

app = typer.Typer()

WaitOption = Annotated[
    float, typer.Option("--wait", min=0.0, help="Seconds for which a server that does not answer is waited for.")
]


@app.command(epilog="Example: `lrpilot watch 3f2a`")
def watch(job: JobArgument, server: ServerOption = None, wait: WaitOption = 60.0) -> None:
    """Follow a job until it ends: what it does, its stages, and the way of its loss and its LR. Ctrl-C leaves it be.

    The exit code is 0 when the job has ended, 1 when the server did not come back in time, and 2 when there is no such
    job. Where the output is no terminal, each change is a line, and the job is shown when it has ended.
    """
    terminal = Terminal()
    with connected(server) as tuner:
        changes = JobStream(tuner, resolve(tuner, job), wait, lambda words: print(words, file=sys.stderr)).changes()

        def fetch(job_id: str) -> pb.GetScheduleResponse:
            return schedule_of(tuner, job_id, pb.SCHEDULE_VIEW_FULL)

        if terminal.is_terminal:
            with Live(console=terminal, auto_refresh=False) as live:
                for shown in pictures(changes, fetch):
                    live.update(shown, refresh=True)
        else:
            for shown in pictures([told(changes)], fetch):
                terminal.print(shown)


def told(changes: Iterable[pb.Job]) -> pb.Job:
    """Writes a line at each change of a job, at once. Returns: the job at the last one, of which there is one."""
    line = ""
    for now in changes:
        before, line = line, in_a_line(now)
        if line != before:
            say(line)
            sys.stdout.flush()
    return now


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


def _progress(job: pb.Job) -> Table:
    """How far a job is; the bar, which ends no line by itself, is a row of it."""
    table = Table.grid()
    table.add_row(facts_table(job))
    if job.HasField("total_steps"):
        table.add_row(ProgressBar(total=job.total_steps, completed=_run(job), width=WIDTH))
    return table
