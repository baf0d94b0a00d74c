"""What several commands have in common: their options, and a connection to a server."""

from __future__ import annotations

import contextlib
import datetime
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Protocol

import typer
from lrpilot.credentials import Credentials
from lrpilot.errors import ScheduleError
from lrpilot.schedule.schedule import Schedule
from lrpilot.transport.embedded_server import EmbeddedServer
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.schedule_data import ScheduleData
from lrpilot.wire.text.job_names import called
from lrpilot.wire.unsearched import unsearched_so_far
from rich.progress import Progress, SpinnerColumn, TextColumn

from tuner_server.base.clock import utc_now
from tuner_server.base.terminal import Terminal
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job.life import Life, Vitals, shown_word
from tuner_server.core.job.state import Status
from tuner_server.process.settings import default_db as default_db

TIMEOUT_S = 30.0
LONG_TIMEOUT_S = 600.0
"""How long a whole history may take to arrive: that of ten million steps is forty megabytes."""
LARGEST_PAGE = 1000
ID_LENGTH = 32
"""Characters of a whole job id."""
SHORT_ID = 8
"""Characters of an id that tell it from others."""
LATEST = "latest"
"""What stands for the job that was opened last."""
MAX_CANDIDATES = 5
"""The most jobs that are told where a name may mean several."""

ServerOption = Annotated[
    str | None,
    typer.Option("--server", envvar="LRPILOT_SERVER", help="HOST:PORT; without it your own database is read."),
]
DbOption = Annotated[
    str,
    typer.Option("--db", envvar="LRPILOT_DB", help="sqlite:///FILE or postgresql://USER@HOST/NAME", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, the beginning of it, its name, or `latest`.")
]


@contextlib.contextmanager
def connected(server: str | None) -> Iterator[GrpcTransport]:
    """A connection to `server`, or to one of our own on the user's database."""
    with contextlib.ExitStack() as stack:
        credentials = Credentials.from_environment() if server else None
        if server is None:
            console = Terminal(stderr=True)
            columns = (SpinnerColumn(), TextColumn("{task.description}"))
            # In a log it would leave an empty line.
            progress = Progress(*columns, transient=True, console=console, disable=not console.is_terminal)
            with progress:
                progress.add_task("opening your database (no --server was named)")
                embedded = stack.enter_context(contextlib.closing(EmbeddedServer()))
            server = embedded.target
        yield stack.enter_context(contextlib.closing(GrpcTransport(server, credentials)))


class Readable(Protocol):
    """Where jobs are looked at: a server, or the user's own database."""

    def list_jobs(self, request: pb.ListJobsRequest, timeout_s: float) -> pb.ListJobsResponse:
        """A page of jobs."""

    def get_schedule(self, request: pb.GetScheduleRequest, timeout_s: float) -> pb.GetScheduleResponse:
        """A job's schedule."""


@contextlib.contextmanager
def readable(server: str | None) -> Iterator[Readable]:
    """What only looks finds its jobs there: on `server`, or in the user's own database."""
    if server is not None:
        with connected(server) as tuner:
            yield tuner
        return
    from tuner_server.cli.own_database import OwnDatabase

    with contextlib.closing(OwnDatabase()) as own:
        yield own


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Raises: InvalidInputError: the file can't be written; BrokenPipeError: whoever read it has seen enough."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InvalidInputError.of("output", f"{output}: {error.strerror}") from error


def listed(tuner: Readable, request: pb.ListJobsRequest, most: int) -> list[pb.Job]:
    """The newest jobs that a request is about, up to so many, page by page. Raises: LRPilotError, TunerError."""
    found: list[pb.Job] = []
    while len(found) < most:
        request.page_size = min(most - len(found), LARGEST_PAGE)
        page = tuner.list_jobs(request, TIMEOUT_S)
        found.extend(page.jobs)
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    return found


def schedule_of(tuner: Readable, job: str, view: pb.ScheduleView.ValueType) -> pb.GetScheduleResponse:
    """A job's schedule. Raises: LRPilotError; InvalidInputError: several jobs' ids begin so."""
    request = pb.GetScheduleRequest(job_id=resolve(tuner, job), view=view)
    return tuner.get_schedule(request, LONG_TIMEOUT_S)


def saved_schedule(job: str) -> Schedule | None:
    """The schedule of a file, where `job` is one; None: it is what a job is called.

    Raises:
        InvalidInputError: it is a path, where there is no file.
        ScheduleError: the file is no schedule's, or can't be read.
    """
    if Path(job).is_file():
        try:
            return Schedule.load(job)
        except OSError as error:
            raise ScheduleError(f"{job}: {error.strerror}") from error
    if Path(job).name != job or Path(job).suffix == ".json":
        raise InvalidInputError.of("job", f"there is no file {job}; `lrpilot export` writes one")
    return None


def titled(schedule: ScheduleData) -> str:
    """What a picture of a schedule is headed with: its job, by name and the beginning of its id, and its policy."""
    short = schedule.job_id[:SHORT_ID]
    name = called(schedule.name, schedule.job_id)
    job = f"{name} ({short})" if short else name
    return ", ".join(filter(None, (job, f"policy {schedule.policy}" if schedule.policy else "")))


def full_schedule(server: str | None, job: str) -> Schedule:
    """A job's schedule with its history. Raises: as `schedule_of`."""
    with readable(server) as tuner:
        return Schedule.from_response(schedule_of(tuner, job, pb.SCHEDULE_VIEW_FULL))


def resolve(tuner: Readable, job: str) -> str:
    """The id of the job that is meant: by its id or the beginning of it, by its name, or as the latest of all.

    Of several jobs of one name the one is meant whose client is there, if it is the only one.

    Raises:
        InvalidInputError: none is meant, or several are.
    """
    if len(job) == ID_LENGTH and set(job) <= set(string.hexdigits):
        return job
    if job == LATEST:
        newest = listed(tuner, pb.ListJobsRequest(), 1)
        if not newest:
            raise InvalidInputError.of("job", "there are no jobs yet")
        return newest[0].id
    meant = listed(tuner, pb.ListJobsRequest(called=job), LARGEST_PAGE) if job else []
    if not meant:
        raise InvalidInputError.of("job", f"no job has the name {job!r}, or an id that begins so; see `lrpilot jobs`")
    alive = [found for found in meant if found.life == pb.JOB_LIFE_ALIVE]
    for few in (meant, alive):
        if len(few) == 1:
            return few[0].id
    shown = ", ".join(f"{found.id[:SHORT_ID]} ({state_of(found)})" for found in meant[:MAX_CANDIDATES])
    more = f" and {len(meant) - MAX_CANDIDATES} more" if len(meant) > MAX_CANDIDATES else ""
    raise InvalidInputError.of("job", f"{job!r} may be {len(meant)} jobs: {shown}{more}; give the beginning of an id")


def vitals_now(job: pb.Job) -> Vitals:
    """The life of a job, as a server gave it. A clock that is behind the server's sees a sign of now."""
    known = job.life != pb.JOB_LIFE_UNSPECIFIED
    life = Life(pb.JobLife.Name(job.life).removeprefix("JOB_LIFE_").lower()) if known else None
    signed = job.sign_time.ToDatetime(datetime.UTC)
    return Vitals(life, max(utc_now() - signed, datetime.timedelta()))


def state_of(job: pb.Job) -> str:
    """A job's state as a word; of one whose client is not there, where that is."""
    status = Status(pb.JobState.Name(job.state).removeprefix("JOB_STATE_").lower())
    return shown_word(status, vitals_now(job).life)


def unsearched(job: pb.Job) -> bool:
    """Whether a job has committed steps, or has them under way, and had no search before them."""
    return unsearched_so_far(job, trains=job.directive.phase == pb.PHASE_TRAIN)


def remark(job: pb.Job) -> str:
    """What is to be said of a job's search and plan after its steps; empty: they are like any other's."""
    searched = ", a rollback failed" if job.unrepeatable else ", no search" if unsearched(job) else ""
    waits = ", a change waits" if job.requested and is_live(job) else ""
    return f"{searched}{waits}"


def is_live(job: pb.Job) -> bool:
    """Whether a job goes on."""
    return job.state not in (pb.JOB_STATE_FINISHED, pb.JOB_STATE_CANCELLED, pb.JOB_STATE_FAILED)


OptionalField = Literal["last_loss", "best_loss", "last_validation", "best_validation"]


def optional(job: pb.Job, field: OptionalField) -> str:
    """A number that a job may have; a dash where it has none."""
    sign = -1 if field.endswith("validation") and job.config.maximises else 1
    return f"{sign * getattr(job, field):.4g}" if job.HasField(field) else "-"


def print_json(value: object) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(value, indent=2))
