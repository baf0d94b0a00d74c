"""`lrpilot forecast`: the end of a run under another schedule, by the annealing law of its losses so far."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_STEPS
from lrpilot.wire.profile import Profile, Shape
from rich import box
from rich.console import Console
from rich.table import Table

from tuner_server.cli.common import JsonOption, ServerOption, connected, print_json, schedule_of, writing
from tuner_server.core.errors import InvalidInputError

if TYPE_CHECKING:
    from tuner_server.history.committed_run import CommittedRun, Piece
    from tuner_server.history.outlook import Forecast, Outlook

app = typer.Typer()


@app.command(epilog="Example: `lrpilot forecast 3f2a --schedule cosine --steps 2000`")
def forecast(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="A job's id, or the beginning of it; or the file of a schedule.")
    ],
    schedule: Annotated[
        str, typer.Option(help="How the LR falls to zero, such as `linear`, `cosine` or `wsd(0.2)`.")
    ] = "linear",
    steps: Annotated[
        int | None,
        typer.Option(
            min=2, max=MAX_STEPS, help="Steps from now on. Without it: those planned, or a tenth of those so far."
        ),
    ] = None,
    peak: Annotated[
        float | None, typer.Option(help="The LR that it falls from. Without it: the LR as it is now.")
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Forecast a whole run of so many steps instead, from its beginning.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A picture to write: .png, .svg or .pdf.")
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast the loss at the end of a run under another schedule, with its standard error.

    The annealing law (Tissue et al. 2024) is fitted to what the job has committed. It says nothing of divergence, so
    nothing is forecast above the LRs that the run has seen.
    """
    from tuner_server.core.laws.curve import UnfittableError
    from tuner_server.history import outlook as outlooks

    shape = _shape(schedule)
    run, planned = _run(job, server)
    try:
        found = outlooks.outlook(run, planned)
        pieces = [_asked(shape, run, planned, steps, peak, from_start=from_start)]
        asked = outlooks.forecast(run, pieces, from_start=from_start)
    except UnfittableError as error:
        raise InvalidInputError.of("job", f"nothing can be forecast: {error}") from error
    if output is not None:
        from tuner_server.cli.forecast_plot import plot

        with writing(output):
            plot(found, asked, str(shape), output, from_start=from_start)
    if as_json:
        print_json(_json(found, asked))
    else:
        _tell(found, asked, f"{shape} from the start" if from_start else f"{shape} from now on")


def _shape(text: str) -> Shape:
    try:
        return Shape.parse(text)
    except ValueError as error:
        raise InvalidInputError.of("schedule", str(error)) from error


def _run(job: str, server: str | None) -> tuple[CommittedRun, Piece | None]:
    """What a job, or a file, has committed, and what is planned after it."""
    from tuner_server.history.committed_run import CommittedRun

    if Path(job).is_file():
        return CommittedRun.of_schedule(Schedule.load(job)), None
    from tuner_server.history.from_wire import job_and_history
    from tuner_server.history.outlook import planned_rest
    from tuner_server.history.timeline import timeline

    with connected(server) as tuner:
        found, entries = job_and_history(schedule_of(tuner, job, pb.SCHEDULE_VIEW_FULL))
    return timeline(entries).committed_run, planned_rest(found.state)


def _asked(
    shape: Shape, run: CommittedRun, planned: Piece | None, steps: int | None, peak: float | None, *, from_start: bool
) -> Piece:
    """The steps that are asked for."""
    from tuner_server.history.committed_run import Piece
    from tuner_server.history.outlook import ANNEALED_SHARE

    if peak is None:
        peak = run.highest_lr if from_start else run.lr
    if not (math.isfinite(peak) and peak > 0):
        raise InvalidInputError.of("peak", f"{peak:g} is no LR to fall from; name one above 0, or give --from-start")
    if steps is None and from_start:
        steps = run.n_steps + (planned.n_steps if planned else 0)
    elif steps is None:
        steps = planned.n_steps if planned else round(ANNEALED_SHARE * run.n_steps)
    steps = max(steps, 2)
    try:
        return Piece(Profile.to_zero(shape, peak, steps), steps)
    except ValueError as error:
        raise InvalidInputError.of("schedule", str(error)) from error


def _forecasts(found: Outlook, asked: Forecast) -> dict[str, Forecast | None]:
    return {"asked": asked, "planned": found.planned, "annealing_now": found.annealed}


def _json(found: Outlook, asked: Forecast) -> dict[str, Any]:
    law = found.law
    forecasts = {
        name: None
        if one is None
        else {
            "steps": one.n_steps,
            "end_step": one.end_step,
            "loss": one.loss if one.told else None,
            "standard_error": one.error if one.told else None,
        }
        for name, one in _forecasts(found, asked).items()
    }
    return {
        "fitted_to": found.observed,
        "points": law.n_points,
        "law": {
            "level": law.level,
            "amplitude": law.amplitude,
            "power": law.power,
            "gain": law.gain if law.annealing_known else None,
            "momentum": law.momentum if law.annealing_known else None,
        },
        "r_squared": law.r_squared,
        "residual": law.residual,
        "forecasts": forecasts,
    }


def _tell(found: Outlook, asked: Forecast, what: str) -> None:
    from tuner_server.history.numbers import count, number

    console = Console()
    console.print(f"[bold]{found.observed}[/] = {found.formula}")
    console.print(f"fitted to {found.evidence}")
    table = Table("", "steps", "end at step", "LR", f"{found.observed} at the end", box=box.SIMPLE)
    names = {"asked": what, "planned": "as planned", "annealing_now": "annealing now"}
    for name, one in _forecasts(found, asked).items():
        if one is not None:
            first, (last, n_steps) = one.pieces[0].profile, one.pieces[-1]
            lrs = f"{number(first.lr(0))} to {number(last.lr(n_steps))}"
            table.add_row(names[name], count(one.n_steps), count(one.end_step), lrs, one.value)
    console.print(table)
    if not found.is_clear(asked):
        console.print("The evidence is thin: the losses so far hardly tell what a fall of the LR brings.")
