"""A picture of forecasts: LRs above, losses below, over committed steps."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from tuner_server.core.errors import InvalidInputError
from tuner_server.history.outlook import Forecast, Outlook

_COMMITTED, _FITTED = "#1f5fa8", "#808080"
_COLOURS = ("#d9822b", "#1b7f4d", "#8a4fa8")
ERRORS = 2.0
"""Standard errors on either side of an end."""


def plot(found: Outlook, asked: Forecast, name: str, path: Path, *, from_start: bool) -> None:
    """Draws the fitted law, and the forecasts with two standard errors, into a file whose ending says the format.

    Raises:
        InvalidInputError: Matplotlib does not know the ending.
    """
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    lr_axes, loss_axes = figure.subplots(2, 1, sharex=True)
    run, curve = found.run, found.run.curve()
    lr_axes.plot(curve.path.steps, curve.path.lrs, color=_COMMITTED, label="committed")
    loss_axes.plot(curve.steps, curve.losses, ".", color=_COMMITTED, label=found.observed)
    loss_axes.plot(curve.steps, found.law.losses(curve.path, curve.steps), color=_FITTED, label="fitted law")
    forecasts = {name: asked, "as planned": found.planned, "annealing now": found.annealed}
    for (label, one), colour in zip(forecasts.items(), _COLOURS, strict=True):
        if one is None:
            continue
        begin = 0 if from_start and one is asked else run.n_steps
        whole = run.path(one.pieces, until=begin)
        shown = whole.steps >= begin
        lr_axes.plot(whole.steps[shown], whole.lrs[shown], "--", color=colour)
        loss_axes.plot(one.curve_steps, one.curve, "--", color=colour, label=f"{label}: {one.value}")
        if one.told:
            loss_axes.errorbar([one.end_step - 1], [one.loss], [ERRORS * one.error], color=colour, capsize=3)
    lr_axes.set_ylabel("learning rate")
    loss_axes.set_ylabel(found.observed)
    loss_axes.set_xlabel("committed step")
    loss_axes.legend(frameon=False)
    for axes in (lr_axes, loss_axes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path)
    except ValueError as error:
        raise InvalidInputError.of("output", str(error)) from error
