"""`lrpilot jobs`: the listing, and what is done to many jobs."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.text.job_names import called
from lrpilot.wire.unsearched import probe_steps
from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from tuner_server.base.clock import utc_now
from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import (
    SHORT_ID,
    DbOption,
    JsonOption,
    ServerOption,
    listed,
    optional,
    print_json,
    readable,
    remark,
    state_of,
    unsearched,
    vitals_now,
)
from tuner_server.cli.telling import tell_done
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job.life import ALL_SHOWN, SHOWN
from tuner_server.process.settings import CONFIG, load, variable

PRUNED_AT_ONCE = 200
"""Jobs whose ids are looked for at once."""

NAME, STEPS, LAST_SIGN = "name", "steps + search", "last sign"
COLUMNS = ("job", NAME, "policy", "state", STEPS, "LR", "loss", "validation", LAST_SIGN)
"""The columns of the table."""
FEW = ("job", NAME, "state", STEPS, "loss")
"""The columns that there is always room for."""
LEAST_STEPS, FAIR_NAME = 16, 20
"""Characters that steps get at least, and that names get before steps get more."""
ROOMY = 136
"""Characters of a line in which all columns find room."""
STATE_WORDS = {word.replace("_", "-"): shown for word, shown in SHOWN.items()}
"""The words for states, as they are shown."""

app = typer.Typer(help="List jobs, or delete old ones.")


@app.callback(invoke_without_command=True, epilog="Example: `lrpilot jobs --state training,silent --json`")
def jobs(
    context: typer.Context,
    server: ServerOption = None,
    as_json: JsonOption = False,
    family: Annotated[str, typer.Option(help="Only jobs of this family.")] = "",
    state: Annotated[
        str,
        typer.Option(
            help=f"Only jobs in one of these states, with commas between: {', '.join(STATE_WORDS)}. "
            "Live is all that has not ended; alive is what has its client there."
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many jobs, the newest first.")] = 50,
) -> None:
    """List jobs, or delete old ones."""
    if context.invoked_subcommand is not None:
        return
    with readable(server) as tuner:
        found = listed(tuner, _request(state, family), limit)
    if as_json:
        print_json([json_format.MessageToDict(job) for job in found])
        return
    terminal = Terminal()
    terminal.print(jobs_table(found, terminal.width) if found else "no jobs")


@app.command(epilog="Example: `lrpilot jobs prune --older-than 90 --db sqlite:////var/lib/lrpilot/jobs.db`")
def prune(
    older_than: Annotated[
        float, typer.Option(min=0, help="Days since the job last changed or gave a sign.", show_default=False)
    ],
    db: DbOption = "",
    config: Annotated[
        Path | None, typer.Option(help=f"A TOML file with the server's settings. [env var: {variable(CONFIG)}]")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only jobs of this project; without it, of all.")] = None,
    silent: Annotated[
        bool, typer.Option("--silent", help="Also jobs that are silent, though not abandoned yet.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,
) -> None:
    """Delete jobs that have ended, were stopped or abandoned, with their history, and give their space back.

    Works on the database itself, also while servers use it. What is silent and abandoned is what the settings
    silent_after_s and abandoned_after_s say, from the environment or the file, as for servers.
    """
    from tuner_server.storage import Database, DeadJobs, open_storage  # brings SQLAlchemy
    from tuner_server.storage.access import open_access
    from tuner_server.storage.compaction import compact

    settings = load({CONFIG: config}, os.environ).settings
    url, now = db or settings.db, utc_now()
    dead = DeadJobs(_days_before(now, older_than), now, project, silent)
    pruned: Counter[str] = Counter()
    if project is not None:
        with open_access(url) as access:
            access.project(project)  # which there is, or a typing error would look like nothing to do
    with open_storage(url, limits=settings.life_limits) as storage:
        if dry_run:
            print(f"{_counted(storage.prunable(dead), 'would be deleted')}")
            return
        while n := storage.prune(dead, PRUNED_AT_ONCE):
            pruned.update(n)
    if not pruned:
        print(_counted(pruned, "deleted"))
        return
    with Database(url) as database:
        done = compact(database, rewrite=False)
    tell_done(f"{_counted(pruned, 'deleted')}; {done}")


def _days_before(now: datetime.datetime, days: float) -> datetime.datetime:
    """The time so many days ago. Raises: InvalidInputError: no calendar goes back so far."""
    try:
        return now - datetime.timedelta(days=days)
    except OverflowError:
        raise InvalidInputError.of("older_than", f"{days:g} days ago is no date; give days, as 90") from None


def _counted(jobs: Mapping[str, int], what: str) -> str:
    """What is said of so many jobs of each state."""
    states = f" ({', '.join(f'{n} {word}' for word, n in sorted(jobs.items()))})" if jobs else ""
    total = sum(jobs.values())
    return f"{total} {'job' if total == 1 else 'jobs'} {what}{states}"


def jobs_table(found: Sequence[pb.Job], width: int = ROOMY) -> Table:
    """A row a job; where there is little room the columns are left out that are looked at least."""
    roomy = width >= ROOMY
    names = list(COLUMNS) if roomy else list(FEW)
    if not roomy and any(vitals_now(job).troubled for job in found):
        names.append(LAST_SIGN)
    table = Table(box=box.SIMPLE, padding=(0, 1) if roomy else (0, 1, 0, 0), pad_edge=roomy)
    for name in names:
        # What is too long is cut in a name, and goes on in the next line of steps; all else is whole.
        table.add_column(name, no_wrap=name != STEPS, overflow="ellipsis")
    rows = [dict(zip(COLUMNS, _row(job), strict=True)) for job in found]
    widths = {name: max(map(cell_len, (name, *(row[name] for row in rows)))) for name in names}
    room = width - sum(widths[name] for name in names if name not in (NAME, STEPS)) - _beside(len(names), roomy=roomy)
    for_steps = min(widths[STEPS], max(room - min(widths[NAME], FAIR_NAME), LEAST_STEPS))
    table.columns[names.index(STEPS)].min_width = for_steps
    table.columns[names.index(NAME)].max_width = max(room - for_steps, SHORT_ID)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names))  # whose words are no markup
    return table


def _beside(n_columns: int, *, roomy: bool) -> int:
    """The characters of a line that are no column's: blanks between them, and the table's edges."""
    return 3 * n_columns + 1 if roomy else 2 * n_columns


def _request(state: str, family: str) -> pb.ListJobsRequest:
    """What asks for jobs of a family in some states. Raises: InvalidInputError: a word is no state's."""
    shown = ALL_SHOWN
    for word in filter(None, (part.strip().lower() for part in state.split(","))):
        if word not in STATE_WORDS:
            raise InvalidInputError.of("state", f"{word!r} is none of {', '.join(STATE_WORDS)}")
        shown |= STATE_WORDS[word]
    states = [pb.JobState.Value(f"JOB_STATE_{status.name}") for status in shown.statuses]
    lives = [pb.JobLife.Value(f"JOB_LIFE_{life.name}") for life in shown.lives]
    return pb.ListJobsRequest(family=family, states=states, lives=lives)


def _row(job: pb.Job) -> list[str]:
    total = f" of {job.total_steps}" if job.HasField("total_steps") else ""
    lr = f"{job.directive.profile.start_lr:.3g}" if job.directive.HasField("profile") else "-"
    searched = "" if unsearched(job) else f" + {probe_steps(job)}"
    undone = f" + {job.given_back_steps} rolled back" if job.given_back_steps else ""
    steps = f"{job.committed_steps}{searched}{undone}{total}{remark(job)}"
    losses = [optional(job, "last_loss"), optional(job, "last_validation")]
    name, policy, state = called(job.config.name, job.id), job.config.policy, state_of(job)
    return [job.id[:SHORT_ID], name, policy, state, steps, lr, *losses, vitals_now(job).ago]
