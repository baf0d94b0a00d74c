"""`lrpilot forecast`: the end of a run under another schedule, by the annealing law of its losses so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_STEPS
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.rewarming import peak_of_rest
from rich import box
from rich.table import Table
from rich.text import Text

from tuner_server.base.terminal import Terminal
from tuner_server.cli.common import (
    JsonOption,
    ServerOption,
    print_json,
    readable,
    saved_schedule,
    schedule_of,
    titled,
    writing,
)
from tuner_server.core.errors import InvalidInputError

if TYPE_CHECKING:
    from tuner_server.history.committed_run import CommittedRun, Piece
    from tuner_server.history.words.outlook import Forecast, Outlook

app = typer.Typer()

DECAYED = 0.01
"""The part of a run's peak below which its LR has decayed: more steps rise from there again, as an extension does."""


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What is forecast: what a job, or a file, has committed, and what is planned after it."""

    title: str
    run: CommittedRun
    planned: Piece | None


@dataclasses.dataclass(frozen=True)
class _Asked:
    """One of the schedules that are asked for, and its forecast."""

    shape: Shape
    from_start: bool
    forecast: Forecast

    @property
    def words(self) -> str:
        """The schedule, and where it begins."""
        return f"{self.shape} from the start" if self.from_start else f"{self.shape} from now on"


@app.command(epilog="Example: `lrpilot forecast 3f2a --schedule cosine --steps 2000`")
def forecast(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="A job's id, the beginning of it, its name, or `latest`; or the file of a schedule."
        ),
    ],
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            help="How the LR falls to zero, such as `linear`, `cosine` or `wsd(0.2)`; `linear` without it. "
            "Give it several times to compare.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=2, max=MAX_STEPS, help="Steps from now on. Without it: those planned, or a tenth of those so far."
        ),
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option(
            help="The LR that it falls from. Without it: the LR as it is now, or, once that has decayed, the one that "
            "an extension of the run would rise to again."
        ),
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
    from tuner_server.history.words import outlook as outlooks

    shapes = [_shape(text) for text in schedule or ("linear",)]
    subject = _subject(job, server)
    run = subject.run
    n_steps = _n_steps(subject, steps, from_start=from_start)
    try:
        found = outlooks.outlook(run, subject.planned)
        lr, why = _peak(run, n_steps, peak, from_start=from_start)
        asked = [
            _Asked(shape, from_start, outlooks.forecast(run, [_piece(shape, lr, n_steps)], from_start=from_start))
            for shape in shapes
        ]
    except UnfittableError as error:
        raise InvalidInputError.of("job", f"nothing can be forecast: {error}") from error
    if output is not None:
        from tuner_server.cli.what_if.forecast_plot import plot

        with writing(output):
            plot(found, {one.words: one.forecast for one in asked}, subject.title, output, from_start=from_start)
    if as_json:
        print_json(_json(found, asked, lr))
    else:
        _tell(found, asked, why)


def _shape(text: str) -> Shape:
    try:
        return Shape.parse(text)
    except ValueError as error:
        raise InvalidInputError.of("schedule", str(error)) from error


def _subject(job: str, server: str | None) -> _Subject:
    from tuner_server.history.committed_run import CommittedRun

    if (saved := saved_schedule(job)) is not None:
        return _Subject(titled(saved), CommittedRun.of_schedule(saved), None)
    from tuner_server.history.from_wire import job_and_history
    from tuner_server.history.schedule_data import data_of_schedule
    from tuner_server.history.timeline import timeline
    from tuner_server.history.words.outlook import planned_rest

    with readable(server) as tuner:
        found, entries = job_and_history(schedule_of(tuner, job, pb.SCHEDULE_VIEW_FULL))
    title = titled(data_of_schedule(found, entries))
    return _Subject(
        title, timeline(entries, maximises=found.state.config.maximises).committed_run, planned_rest(found.state)
    )


def _n_steps(subject: _Subject, steps: int | None, *, from_start: bool) -> int:
    """The steps that are asked for, or those that go without saying."""
    from tuner_server.history.words.outlook import ANNEALED_SHARE

    run, planned = subject.run, subject.planned
    if steps is None and from_start:
        steps = run.n_steps + (planned.n_steps if planned else 0)
    elif steps is None:
        steps = planned.n_steps if planned else round(ANNEALED_SHARE * run.n_steps)
    return max(steps, 2)


def _peak(run: CommittedRun, n_steps: int, peak: float | None, *, from_start: bool) -> tuple[float, str]:
    """The LR that a schedule falls from, and why, where it is neither the one that was named nor the present one."""
    from tuner_server.history.words.numbers import number, steps

    if peak is not None:
        if not (math.isfinite(peak) and peak > 0):
            raise InvalidInputError.of("peak", f"{peak:g} is no LR to fall from; name one above 0")
        return peak, ""
    if from_start:
        return run.highest_lr, f"The peak is {number(run.highest_lr)}, the highest LR of the run."
    if run.lr > DECAYED * run.highest_lr:
        return run.lr, ""
    found = peak_of_rest(run.highest_lr, run.lr, run.n_steps, n_steps)
    return found, (
        f"The LR has decayed to {number(run.lr)}, so it is forecast to rise to {number(found)} again, as if the run "
        f"were extended by {steps(n_steps)}: on the line from its peak of {number(run.highest_lr)} to the new end. "
        "Name another with --peak."
    )


def _piece(shape: Shape, peak: float, n_steps: int) -> Piece:
    from tuner_server.history.committed_run import Piece

    try:
        return Piece(Profile.to_zero(shape, peak, n_steps), n_steps)
    except ValueError as error:
        raise InvalidInputError.of("schedule", str(error)) from error


def _beside(found: Outlook) -> dict[str, Forecast | None]:
    """What stands beside the schedules that are asked for."""
    return {"planned": found.planned, "annealing_now": found.annealed}


def _forecast_json(found: Outlook, one: Forecast) -> dict[str, Any]:
    return {
        "steps": one.n_steps,
        "end_step": one.end_step,
        "loss": (-one.loss if one.of_metric else one.loss) if one.told else None,
        "standard_error": one.error if one.told else None,
        "clear": found.is_clear(one),
    }


def _json(found: Outlook, asked: Sequence[_Asked], peak: float) -> dict[str, Any]:
    law = found.law
    forecasts: dict[str, Any] = {
        "asked": [{"schedule": str(one.shape), "peak": peak, **_forecast_json(found, one.forecast)} for one in asked],
        **{name: None if one is None else _forecast_json(found, one) for name, one in _beside(found).items()},
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


def _tell(found: Outlook, asked: Sequence[_Asked], why: str) -> None:
    from tuner_server.history.words.numbers import count

    console = Terminal()
    if not all(found.is_clear(one.forecast) for one in asked):
        console.print("The evidence is thin: the losses so far hardly tell what a fall of the LR brings.")
    console.print(Text.assemble((found.observed, "bold"), f" = {found.formula}"))
    console.print(f"fitted to {found.evidence}")
    if why:
        console.print(why)
    table = Table("", "steps", "end at step", "LR", f"{found.observed} at the end", box=box.SIMPLE)
    names = {"planned": "as planned", "annealing_now": "annealing now"}
    rows = {one.words: one.forecast for one in asked} | {
        names[name]: one for name, one in _beside(found).items() if one
    }
    for name, one in rows.items():
        table.add_row(name, count(one.n_steps), count(one.end_step), _lrs(one), one.value)
    console.print(table)
    console.print("± is one standard error.")


def _lrs(one: Forecast) -> str:
    """The LRs of a forecast: the first, the last, and the highest where it begins lower."""
    from tuner_server.history.words.numbers import number

    first, (last, n_steps) = one.pieces[0].profile, one.pieces[-1]
    begin, end = first.lr(0), last.lr(n_steps)
    highest = max(piece.profile.highest_lr(piece.n_steps) or 0.0 for piece in one.pieces)
    ways = [begin, highest, end] if highest > max(begin, end) else [begin, end]
    return " to ".join(map(number, ways))
