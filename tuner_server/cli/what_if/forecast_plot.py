"""A picture of forecasts: LRs above, losses below, over committed steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from lrpilot.schedule.plot import save, write_title
from matplotlib.figure import Figure

from tuner_server.core.errors import InvalidInputError
from tuner_server.history.words.outlook import Forecast, Outlook

_COMMITTED, _FITTED = "#1f5fa8", "#808080"
_COLOURS = ("#d9822b", "#1b7f4d", "#8a4fa8", "#b03060", "#3a9ba5", "#7a6a2f")


def plot(found: Outlook, asked: Mapping[str, Forecast], title: str, path: Path, *, from_start: bool) -> None:
    """Draws the fitted law, and the forecasts with their standard errors, into a file whose ending says the format.

    Args:
        found: the run and its law, with what is planned, and an annealing now.
        asked: the schedules that were asked for, by name.
        title: what the picture is headed with.
        path: the file.
        from_start: whether the schedules that were asked for replace the run.

    Raises:
        InvalidInputError: Matplotlib does not know the ending.
    """
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    write_title(figure.suptitle(""), title)
    lr_axes, loss_axes = figure.subplots(2, 1, sharex=True)
    run, curve = found.run, found.run.curve()
    sign = -1.0 if run.of_metric else 1.0
    lr_axes.plot(curve.path.steps, curve.path.lrs, color=_COMMITTED, label="committed")
    loss_axes.plot(curve.steps, sign * curve.losses, ".", color=_COMMITTED, label=found.observed)
    loss_axes.plot(curve.steps, sign * found.law.losses(curve.path, curve.steps), color=_FITTED, label="fitted law")
    beside = {"as planned": found.planned, "annealing now": found.annealed}
    forecasts = {**asked, **{label: one for label, one in beside.items() if one is not None}}
    for (label, one), colour in zip(forecasts.items(), itertools.cycle(_COLOURS), strict=False):
        begin = 0 if from_start and label in asked else run.n_steps
        whole = run.path(one.pieces, until=begin)
        shown = whole.steps >= begin
        lr_axes.plot(whole.steps[shown], whole.lrs[shown], "--", color=colour)
        loss_axes.plot(one.curve_steps, sign * one.curve, "--", color=colour, label=f"{label}: {one.value}")
        if one.told:
            loss_axes.errorbar([one.end_step - 1], [sign * one.loss], [one.error], color=colour, capsize=3)
    lr_axes.set_ylabel("learning rate")
    loss_axes.set_ylabel(found.observed)
    loss_axes.set_xlabel("committed step")
    loss_axes.legend(frameon=False, title="± and bars: one standard error")
    for axes in (lr_axes, loss_axes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        save(figure, path)
    except ValueError as error:
        raise InvalidInputError.of("output", str(error)) from error
