"""`lrpilot`: the command line. Everything but `serve` and `db` talks to a server, over gRPC, as any client does."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import platformdirs
import structlog
import typer
from google.protobuf import json_format
from lrpilot.embedded import EmbeddedServer
from lrpilot.errors import LRPilotError, RefusedError, ScheduleError
from lrpilot.schedule import Schedule
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from tuner_server.core.errors import InvalidInputError, TunerError

TIMEOUT_S = 30.0
GRACE_S = 10.0
LARGEST_PAGE = 1000

app = typer.Typer(
    name="lrpilot",
    help="Tunes the learning rate of running training jobs.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
db_app = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(db_app, name="db")

ServerOption = Annotated[
    str | None,
    typer.Option("--server", envvar="LRPILOT_SERVER", help="HOST:PORT; without it your own database is read."),
]
DbOption = Annotated[
    str,
    typer.Option("--db", envvar="LRPILOT_DB", help="sqlite:///FILE or postgresql://USER@HOST/NAME", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or the beginning of it.")]


def default_db() -> str:
    """Where jobs without a shared server are kept: the user's own data directory."""
    directory = platformdirs.user_data_path("lrpilot", appauthor=False, ensure_exists=True)
    return f"sqlite:///{directory / 'lrpilot.db'}"


def main() -> NoReturn:
    """Runs the command line. Bad input: one line and exit code 2; another failure: one line and exit code 1."""
    try:
        app()
    except (TunerError, LRPilotError) as error:
        print(f"lrpilot: {error}", file=sys.stderr)
        bad_input = isinstance(error, InvalidInputError | RefusedError | ScheduleError | ValueError)
        sys.exit(2 if bad_input else 1)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("lrpilot"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Tunes the learning rate of running training jobs."""


@app.command(epilog="Example: `lrpilot serve --listen 0.0.0.0:50051 --db sqlite:////var/lib/lrpilot/jobs.db`")
def serve(
    listen: Annotated[
        str, typer.Option(envvar="LRPILOT_LISTEN", help="HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:50051",
    db: DbOption = "",
    grace_s: Annotated[
        float, typer.Option(envvar="LRPILOT_GRACE_S", min=0, help="Seconds that running calls get at the end.")
    ] = GRACE_S,
    exit_with_stdin: Annotated[
        bool, typer.Option("--exit-with-stdin", help="Stop when standard input closes, as its owner's death does.")
    ] = False,
) -> None:
    """Run a tuner server until SIGTERM."""
    # Only here: PyTorch takes a second or two to import, and the commands that ask a server don't need it.
    from tuner_server.serve import serve as run
    from tuner_server.storage import open_storage

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(),
        ],
    )
    with open_storage(db or default_db()) as storage:
        asyncio.run(run(storage, listen, grace_s, exit_with_stdin=exit_with_stdin))


@app.command(epilog="Example: `lrpilot jobs --family resnet --json`")
def jobs(
    server: ServerOption = None,
    as_json: JsonOption = False,
    family: Annotated[str, typer.Option(help="Only jobs of this family.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many jobs, the newest first.")] = 50,
) -> None:
    """List jobs."""
    found: list[pb.Job] = []
    with _connected(server) as tuner:
        page = _page(tuner, pb.ListJobsRequest(page_size=min(limit, LARGEST_PAGE), family=family))
        found.extend(page.jobs)
        while page.next_page_token and len(found) < limit:
            size = min(limit - len(found), LARGEST_PAGE)
            page = _page(tuner, pb.ListJobsRequest(page_size=size, page_token=page.next_page_token, family=family))
            found.extend(page.jobs)
    if as_json:
        _print_json([json_format.MessageToDict(job) for job in found])
        return
    table = Table("job", "name", "policy", "state", "steps + search", "LR", "loss", "validation", box=box.SIMPLE)
    for job in found:
        table.add_row(*_row(job))
    Console().print(table if found else "no jobs")


@app.command(epilog="Example: `lrpilot show 3f2a --json`")
def show(job: JobArgument, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show a job: how far it is, and its schedule."""
    with _connected(server) as tuner:
        found = _schedule(tuner, job, pb.SCHEDULE_VIEW_BASIC)
    if as_json:
        _print_json(json_format.MessageToDict(found))
        return
    console = Console()
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(found.job).items():
        facts.add_row(f"[bold]{name}", value)
    console.print(facts)
    table = Table("stage", "phase", "from step", "steps", "LR", "to LR", box=box.SIMPLE)
    for segment in found.segments:
        profile = segment.profile
        phase = pb.Phase.Name(segment.phase).removeprefix("PHASE_").lower()
        lrs = (f"{profile.start_lr:.4g}", f"{profile.end_lr:.4g}")
        table.add_row(str(segment.stage), phase, str(segment.start_step), str(segment.n_steps), *lrs)
    console.print(table)


@app.command(epilog="Example: `lrpilot export 3f2a -o schedule.json`, then in Python `lrpilot.Schedule.load(...)`")
def export(
    job: JobArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    server: ServerOption = None,
) -> None:
    """Write a job's schedule, with its history, as JSON."""
    schedule = _full_schedule(server, job)
    with _writing(output):
        schedule.save(output)


@app.command(epilog="Example: `lrpilot plot 3f2a -o schedule.png`")
def plot(
    job: JobArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write: .png, .svg or .pdf.")],
    server: ServerOption = None,
) -> None:
    """Draw LR and loss over steps, probes apart."""
    schedule = _full_schedule(server, job)
    with _writing(output):
        schedule.plot(output)


@app.command(epilog='Example: `lrpilot cancel 3f2a --reason "wrong data"`')
def cancel(
    job: JobArgument,
    server: ServerOption = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at the job.")] = "",
    as_json: JsonOption = False,
) -> None:
    """End the tuning of a job. Its training goes on, and anneals its LR."""
    with _connected(server) as tuner:
        request = pb.CancelJobRequest(job_id=_resolve(tuner, job), reason=reason)
        found = tuner.call(lambda: tuner.stub.CancelJob(request, timeout=TIMEOUT_S)).job
    if as_json:
        _print_json(json_format.MessageToDict(found))
    else:
        print(f"{found.id} cancelled")


@app.command(epilog="Example: `lrpilot demo --out out/demo`")
def demo(
    out: Annotated[Path, typer.Option(help="Where the results go.")] = Path("out/demo"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of every run.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and search.")] = 0,
) -> None:
    """Tune a small network on real images, and compare with three usual schedules."""
    try:
        from tuner_server.demo import run
    except ModuleNotFoundError as error:
        raise InvalidInputError.of("demo", f"{error}; pip install 'lrpilot[demo]'") from error
    run(out, steps, seed)


@db_app.command(epilog="Example: `lrpilot db upgrade --db postgresql://lrpilot@db/lrpilot`")
def upgrade(db: DbOption = "") -> None:
    """Bring a database to this version's schema."""
    from tuner_server.storage import Database, upgrade_schema  # brings PyTorch, as in `serve`

    with Database(db or default_db()) as database:
        done = upgrade_schema(database)
    before = done.before or "nothing"
    print(f"{database.label}: {'already at' if done.before == done.after else f'from {before} to'} {done.after}")


@contextlib.contextmanager
def _connected(server: str | None) -> Iterator[GrpcTransport]:
    """A connection to `server`, or to one of our own on the user's database."""
    with contextlib.ExitStack() as stack:
        if server is None:
            console = Console(stderr=True)
            columns = (SpinnerColumn(), TextColumn("{task.description}"))
            # In a log it would leave an empty line.
            progress = Progress(*columns, transient=True, console=console, disable=not console.is_terminal)
            with progress:
                progress.add_task("opening your database (no --server was named)")
                embedded = stack.enter_context(contextlib.closing(EmbeddedServer()))
            server = embedded.target
        yield stack.enter_context(contextlib.closing(GrpcTransport(server)))


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Raises: InvalidInputError: the file can't be written."""
    try:
        yield
    except OSError as error:
        raise InvalidInputError.of("output", f"{output}: {error.strerror}") from error


def _page(tuner: GrpcTransport, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
    return tuner.call(lambda: tuner.stub.ListJobs(request, timeout=TIMEOUT_S))


def _schedule(tuner: GrpcTransport, job: str, view: pb.ScheduleView.ValueType) -> pb.GetScheduleResponse:
    request = pb.GetScheduleRequest(job_id=_resolve(tuner, job), view=view)
    return tuner.call(lambda: tuner.stub.GetSchedule(request, timeout=TIMEOUT_S))


def _full_schedule(server: str | None, job: str) -> Schedule:
    with _connected(server) as tuner:
        return Schedule.from_response(_schedule(tuner, job, pb.SCHEDULE_VIEW_FULL))


def _resolve(tuner: GrpcTransport, job: str) -> str:
    """The id that begins with `job`. Raises: InvalidInputError: none or several do."""
    page = _page(tuner, pb.ListJobsRequest(page_size=LARGEST_PAGE))
    matching = [found.id for found in page.jobs if found.id.startswith(job)]
    if len(matching) > 1 and job not in matching:
        raise InvalidInputError.of("job", f"{job!r} begins {len(matching)} ids; give more of it")
    return matching[0] if len(matching) == 1 else job


def _state(job: pb.Job) -> str:
    return pb.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()


OptionalField = Literal["last_loss", "last_validation", "best_validation"]


def _optional(job: pb.Job, field: OptionalField) -> str:
    return f"{getattr(job, field):.4g}" if job.HasField(field) else "-"


def _row(job: pb.Job) -> list[str]:
    total = f" of {job.config.total_steps}" if job.config.HasField("total_steps") else ""
    lr = f"{job.directive.profile.start_lr:.3g}" if job.directive.HasField("profile") else "-"
    steps = f"{job.committed_steps} + {job.search_steps}{total}"
    losses = [_optional(job, "last_loss"), _optional(job, "last_validation")]
    return [job.id[:8], job.config.name or "-", job.config.policy, _state(job), steps, lr, *losses]


def _facts(job: pb.Job) -> dict[str, str]:
    total = f" of {job.config.total_steps}" if job.config.HasField("total_steps") else ""
    facts = {
        "job": job.id,
        "name": job.config.name or "-",
        "policy": job.config.policy,
        "state": f"{_state(job)} {job.message}".strip(),
        "steps": f"{job.committed_steps} committed + {job.search_steps} search{total}",
        "bounds": f"{job.lr_bounds.min:.3g} to {job.lr_bounds.max:.3g}" if job.HasField("lr_bounds") else "-",
        "loss": _optional(job, "last_loss"),
        "validation": f"{_optional(job, 'last_validation')} (best {_optional(job, 'best_validation')})",
        "wall time": f"{job.wall_time_s:.1f} s",
    }
    if job.directive.reason:
        facts["now"] = job.directive.reason
    return facts


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
