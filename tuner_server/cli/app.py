"""The commands put together, and how they fail."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated, NoReturn

import typer
from lrpilot.errors import LRPilotError, RefusedError, ScheduleError

from tuner_server.base import streams
from tuner_server.base.encoding import is_text
from tuner_server.cli import dashboard, demo, job, jobs, plan, report, watch
from tuner_server.cli.administration import config, db, projects, serve, tokens
from tuner_server.cli.what_if import forecast, refine
from tuner_server.core.errors import InvalidInputError, NotFoundError, TunerError
from tuner_server.process.settings import PREFIX

app = typer.Typer(
    name="lrpilot",
    help="Tunes the learning rate of running training jobs.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for part in (
    serve.app,
    dashboard.app,
    config.app,
    job.app,
    plan.app,
    watch.app,
    refine.app,
    report.app,
    forecast.app,
    demo.app,
):
    app.add_typer(part)
app.add_typer(jobs.app, name="jobs")
app.add_typer(db.app, name="db")
app.add_typer(projects.app, name="projects")
app.add_typer(tokens.app, name="tokens")


def main() -> NoReturn:
    """Runs the command line. Bad input: one line and exit code 2; another failure: one line and exit code 1."""
    streams.make_usable()
    # gRPC's own library writes to standard error by itself, past our log, and waits for whoever reads it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        _refuse_other_bytes()
        code = app(prog_name=app.info.name, standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:  # what the command line itself does not understand
        if wrong := _wrong(error):  # nothing: the help was asked for, by no word at all
            streams.complain(f"lrpilot: {wrong}")
        sys.exit(error.exit_code)
    except (TunerError, LRPilotError) as error:
        streams.complain(f"lrpilot: {error}")
        bad_input = isinstance(error, InvalidInputError | NotFoundError | RefusedError | ScheduleError | ValueError)
        sys.exit(2 if bad_input else 1)
    except BrokenPipeError:  # whoever read our output has seen enough
        streams.write_no_more()
        sys.exit(0)
    except OSError as error:  # a full disk that our output goes to, a working directory that is gone
        streams.complain(f"lrpilot: {error.filename or 'output'}: {error.strerror or error}")
        streams.write_no_more()
        sys.exit(1)
    sys.exit(code or 0)


def _refuse_other_bytes() -> None:
    """Raises: InvalidInputError: an argument, or a variable of ours, is not UTF-8: no command could send or show it."""
    for number, argument in enumerate(sys.argv[1:], 1):
        if not is_text(argument):
            raise InvalidInputError.of(f"argument {number}", f"{os.fsencode(argument)!r} is not UTF-8")
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and not is_text(value):
            raise InvalidInputError.of(name, "must be UTF-8")


def _wrong(error: typer.TyperException) -> str:
    """What is wrong with a command line, in one line: the command, the error, where help is."""
    said = " ".join(error.format_message().split()).rstrip(".")
    if not said:
        return ""
    context: typer.Context | None = getattr(error, "ctx", None)  # most have one, but the classes that do are private
    path = context.command_path if context is not None else "lrpilot"
    command = path.removeprefix("lrpilot").strip()
    what = f"{said[0].lower()}{said[1:]} (see `{path} --help`)"
    return f"{command}: {what}" if command else what


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
