"""The commands put together, and how they fail."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated, NoReturn

import typer
from lrpilot.errors import LRPilotError, RefusedError, ScheduleError

from tuner_server.cli import config, db, demo, job, jobs, projects, report, serve, tokens, watch
from tuner_server.core.errors import InvalidInputError, TunerError

app = typer.Typer(
    name="lrpilot",
    help="Tunes the learning rate of running training jobs.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for part in (serve.app, config.app, job.app, watch.app, report.app, demo.app):
    app.add_typer(part)
app.add_typer(jobs.app, name="jobs")
app.add_typer(db.app, name="db")
app.add_typer(projects.app, name="projects")
app.add_typer(tokens.app, name="tokens")


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
