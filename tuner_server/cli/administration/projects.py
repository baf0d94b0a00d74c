"""`lrpilot projects`: the projects that jobs belong to, and what they may use. It works on the database itself."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from tuner_server.base.clock import utc_now
from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import DbOption, JsonOption, default_db, print_json
from tuner_server.cli.telling import tell_done
from tuner_server.core.errors import InvalidInputError

app = typer.Typer(help="Projects, to which jobs and tokens belong.", no_args_is_help=True)

NO_LIMIT = "none"
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, inner hyphens.")]
AliveJobsOption = Annotated[
    str | None,
    typer.Option(
        "--max-alive-jobs", metavar="N", help="Jobs at a time whose client is there (alive); `none`: no limit."
    ),
]
CallsOption = Annotated[
    str | None,
    typer.Option(
        "--max-calls-per-s",
        metavar="R",
        help="Calls a second in each process, for training and reading each; `none`: no limit.",
    ),
]


@app.command(epilog="Example: `lrpilot projects create vision --max-alive-jobs 200 --max-calls-per-s 50`")
def create(
    name: NameArgument, max_alive_jobs: AliveJobsOption = None, max_calls_per_s: CallsOption = None, db: DbOption = ""
) -> None:
    """Add a project. Without limits it may use what there is."""
    from tuner_server.access.records import Limits, Project
    from tuner_server.storage.access import open_access

    limits = Limits.checked(_jobs(max_alive_jobs), _calls(max_calls_per_s))
    project = Project.checked(name, limits, utc_now())
    with open_access(db or default_db()) as access:
        access.create_project(project)
    tell_done(f"{name} created")


@app.command(epilog="Example: `lrpilot projects update vision --max-calls-per-s none`")
def update(
    name: NameArgument, max_alive_jobs: AliveJobsOption = None, max_calls_per_s: CallsOption = None, db: DbOption = ""
) -> None:
    """Change a project's limits: those that are named. Servers take them up within seconds."""
    from tuner_server.access.records import Limits
    from tuner_server.storage.access import open_access

    with open_access(db or default_db()) as access:
        limits = access.project(name).limits
        changed = Limits.checked(
            limits.max_alive_jobs if max_alive_jobs is None else _jobs(max_alive_jobs),
            limits.max_calls_per_s if max_calls_per_s is None else _calls(max_calls_per_s),
        )
        access.update_project(name, changed)
    tell_done(f"{name}: {_shown(changed.max_alive_jobs)} jobs alive, {_shown(changed.max_calls_per_s)} calls a second")


@app.command("list", epilog="Example: `lrpilot projects list --json`")
def list_(as_json: JsonOption = False, db: DbOption = "") -> None:
    """List projects and their limits."""
    from tuner_server.storage.access import open_access

    with open_access(db or default_db()) as access:
        projects = access.projects()
    if as_json:
        print_json(
            [
                {"name": each.name, **dataclasses.asdict(each.limits), "create_time": each.create_time.isoformat()}
                for each in projects
            ]
        )
        return
    table = Table("project", "jobs alive", "calls/s", "created", box=box.SIMPLE)
    for each in projects:
        limits = (_shown(each.limits.max_alive_jobs), _shown(each.limits.max_calls_per_s))
        table.add_row(each.name, *limits, f"{each.create_time:%Y-%m-%d %H:%M}")
    Terminal().print(table)


def _jobs(text: str | None) -> int | None:
    """A number of jobs. Raises: InvalidInputError."""
    if text is None or text == NO_LIMIT:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInputError.of("max_alive_jobs", f"{text!r} is neither a whole number nor none") from error


def _calls(text: str | None) -> float | None:
    """A rate. Raises: InvalidInputError."""
    if text is None or text == NO_LIMIT:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError.of("max_calls_per_s", f"{text!r} is neither a number nor none") from error


def _shown(limit: float | None) -> str:
    return NO_LIMIT if limit is None else f"{limit:g}"
