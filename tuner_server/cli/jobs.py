"""`lrpilot jobs`: the listing, and what is done to many jobs."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated

import typer
from google.protobuf import json_format
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.unsearched import probe_steps
from rich import box
from rich.table import Table

from tuner_server.base.clock import utc_now
from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import (
    LARGEST_PAGE,
    DbOption,
    JsonOption,
    ServerOption,
    connected,
    default_db,
    optional,
    page_of,
    print_json,
    remark,
    state_of,
    unsearched,
)

PRUNED_AT_ONCE = 200
"""Jobs whose ids are looked for at once."""

app = typer.Typer(help="List jobs, or delete old ones.")


@app.callback(invoke_without_command=True, epilog="Example: `lrpilot jobs --family resnet --json`")
def jobs(
    context: typer.Context,
    server: ServerOption = None,
    as_json: JsonOption = False,
    family: Annotated[str, typer.Option(help="Only jobs of this family.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many jobs, the newest first.")] = 50,
) -> None:
    """List jobs, or delete old ones."""
    if context.invoked_subcommand is not None:
        return
    found: list[pb.Job] = []
    with connected(server) as tuner:
        page = page_of(tuner, pb.ListJobsRequest(page_size=min(limit, LARGEST_PAGE), family=family))
        found.extend(page.jobs)
        while page.next_page_token and len(found) < limit:
            size = min(limit - len(found), LARGEST_PAGE)
            page = page_of(tuner, pb.ListJobsRequest(page_size=size, page_token=page.next_page_token, family=family))
            found.extend(page.jobs)
    if as_json:
        print_json([json_format.MessageToDict(job) for job in found])
        return
    Terminal().print(jobs_table(found) if found else "no jobs")


@app.command(epilog="Example: `lrpilot jobs prune --older-than 90 --db sqlite:////var/lib/lrpilot/jobs.db`")
def prune(
    older_than: Annotated[float, typer.Option(min=0, help="Days since the job last changed.", show_default=False)],
    db: DbOption = "",
    project: Annotated[str | None, typer.Option(help="Only jobs of this project; without it, of all.")] = None,
) -> None:
    """Delete jobs that have ended, with their history, and give their space back.

    Works on the database itself, also while servers use it.
    """
    from tuner_server.storage import Database, open_storage  # brings PyTorch, as in `serve`
    from tuner_server.storage.compaction import compact

    before = utc_now() - datetime.timedelta(days=older_than)
    n_pruned = 0
    url = db or default_db()
    with open_storage(url) as storage:
        while n := storage.prune(project, before, PRUNED_AT_ONCE):
            n_pruned += n
    if not n_pruned:
        print("0 jobs deleted")
        return
    with Database(url) as database:
        done = compact(database, rewrite=False)
    print(f"{n_pruned} jobs deleted; {done}")


def jobs_table(found: Sequence[pb.Job]) -> Table:
    """A row a job."""
    table = Table("job", "name", "policy", "state", "steps + search", "LR", "loss", "validation", box=box.SIMPLE)
    for job in found:
        table.add_row(*_row(job))
    return table


def _row(job: pb.Job) -> list[str]:
    total = f" of {job.total_steps}" if job.HasField("total_steps") else ""
    lr = f"{job.directive.profile.start_lr:.3g}" if job.directive.HasField("profile") else "-"
    searched = "" if unsearched(job) else f" + {probe_steps(job)}"
    undone = f" + {job.given_back_steps} rolled back" if job.given_back_steps else ""
    steps = f"{job.committed_steps}{searched}{undone}{total}{remark(job)}"
    losses = [optional(job, "last_loss"), optional(job, "last_validation")]
    return [job.id[:8], job.config.name or "-", job.config.policy, state_of(job), steps, lr, *losses]
