"""A picture of a schedule: LRs above, losses below, over committed steps."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrpilot.errors import ScheduleError
from lrpilot.schedule.output_file import output_file
from lrpilot.wire.schedule_data import ScheduleData
from lrpilot.wire.text.job_names import called
from lrpilot.wire.text.plain_text import plain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

LONGEST_TITLE = 120
"""Characters of a title that a picture has room for."""
WINDOWS = 4000
"""A longer row is drawn by the lowest and the highest value in so many windows: a picture is 1,080 dots wide."""
_COMMITTED, _SEARCH, _VALIDATION, _CHANGE = "#1f5fa8", "#d9822b", "#1b7f4d", "#808080"


def plot(schedule: ScheduleData, path: Path | None) -> Figure:
    """Draws a schedule, and writes it into a file whose ending says the format, if one is given.

    Raises:
        ScheduleError: Matplotlib is not installed, or does not know the ending.
    """
    try:
        from lrpilot.schedule.picture import Picture
    except ImportError:
        raise ScheduleError("plot: Matplotlib is missing; pip install matplotlib") from None
    figure = Picture(figsize=(9, 6), dpi=120, layout="constrained")
    lr_axes, loss_axes = figure.subplots(2, 1, sharex=True)
    _draw_lrs(lr_axes, schedule)
    _draw_losses(loss_axes, schedule)
    notes = (
        "no search" if schedule.unsearched else "",
        "the search ended: a rollback failed" if schedule.unrepeatable else "",
    )
    title = " · ".join(
        filter(None, (called(schedule.name, schedule.job_id), schedule.policy, schedule.job_id[:8], *notes))
    )
    write_title(lr_axes.title, title)
    _mark_changes(lr_axes, loss_axes, schedule)
    for axes in (lr_axes, loss_axes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    if path is not None:
        try:
            save(figure, path)
        except ValueError as error:
            raise ScheduleError(f"plot: {error}") from None
    return figure


def write_title(title: Text, words: str) -> None:
    """Writes words over a picture as they are: in one line, and with no formula in them, whatever they hold."""
    words = plain(words)
    title.set_text(words if len(words) <= LONGEST_TITLE else f"{words[: LONGEST_TITLE - 1]}…")
    title.set_parse_math(False)
    title.set_usetex(False)


def save(figure: Figure, path: Path) -> None:
    """Writes a picture. Raises: OSError; ValueError: the ending of the path says no format that is known."""
    if not path.suffix:
        raise ValueError(f"{path} has no ending that says the format; give .png, .svg or .pdf")
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # A sign that no font has is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(drawn, format=path.suffix[1:].lower())
    with output_file(path) as file:
        file.write(drawn.getbuffer())


def _mark_changes(lr_axes: Axes, loss_axes: Axes, schedule: ScheduleData) -> None:
    """A line where the plan changed, and what changed at its top; several changes at one step have one line."""
    kinds: dict[int, list[str]] = {}
    for replan in schedule.replans:
        kinds.setdefault(replan.step, []).append(replan.kind.value.replace("_", " "))
    for step, names in kinds.items():
        for axes in (lr_axes, loss_axes):
            axes.axvline(step, color=_CHANGE, linestyle=":", linewidth=1)
        lr_axes.annotate(
            ", ".join(names),
            (step, 1),
            (2, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            size=7,
        )


def _draw_lrs(axes: Axes, schedule: ScheduleData) -> None:
    steps = _steps_of_lrs(schedule)
    # A warm-up may start at zero, which a log axis has no place for.
    axes.set_yscale("log", nonpositive="mask")
    axes.plot(steps, [schedule.lr(step) for step in steps], color=_COMMITTED, label="committed")
    tries = [probe for probe in schedule.probes if probe.n_steps]
    for marker, label, diverged in (("o", "probed", False), ("x", "probed, diverged", True)):
        shown = [probe for probe in tries if probe.diverged is diverged]
        if shown:
            x = [probe.start_step for probe in shown]
            y = [probe.profile.lr(0) for probe in shown]
            axes.scatter(x, y, marker=marker, color=_SEARCH, alpha=0.6, s=24, label=label)
    axes.set_ylabel("learning rate")


def _steps_of_lrs(schedule: ScheduleData) -> list[int]:
    """The steps whose LRs are drawn: in long schedules the ends of the segments, and some steps evenly between."""
    stride = -(-max(schedule.n_steps, 1) // (2 * WINDOWS))
    ends = {step for part in schedule.segments for step in (part.start_step, part.start_step + part.n_steps - 1)}
    return sorted(ends.union(range(0, schedule.n_steps, stride)))


def _draw_losses(axes: Axes, schedule: ScheduleData) -> None:
    import numpy as np

    losses = np.asarray(schedule.losses, dtype=float)
    _draw_row(axes, losses, 0, color=_COMMITTED, linewidth=0.8, label="training loss")
    if schedule.validations:
        steps = [validation.step for validation in schedule.validations]
        values = [validation.loss for validation in schedule.validations]
        # A metric has a scale of its own: an accuracy would be a line along the bottom of a loss's.
        own = axes.twinx() if schedule.mode == "max" else axes
        if own is not axes:
            own.set_ylabel("validation metric")
        own.plot(
            steps,
            values,
            "o-",
            color=_VALIDATION,
            markersize=4,
            label="validation metric" if schedule.mode == "max" else "validation loss",
        )
    finite = losses[np.isfinite(losses)]
    if finite.size and finite.min() > 0:
        axes.set_yscale("log", nonpositive="mask")
    limits = axes.get_ylim()
    for index, probe in enumerate(schedule.probes):
        label = "probes" if index == 0 else None
        row = np.asarray(probe.losses, dtype=float)
        _draw_row(axes, row, probe.start_step, color=_SEARCH, alpha=0.35, linewidth=0.7, label=label)
    # What was committed sets the scale; a probe that diverged would leave nothing to see of it.
    if finite.size:
        axes.set_ylim(limits)
    axes.set_xlabel("committed step")
    axes.set_ylabel("loss")


def _draw_row(axes: Axes, values: npt.NDArray[np.float64], start: int, **style: Any) -> None:
    """Draws the values of steps in a row, from `start` on."""
    shown = _extremes(values)
    axes.plot(start + shown, values[shown], **style)


def _extremes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The places of the values that are drawn, ascending. A window with no finite value stays a gap in the line."""
    import numpy as np

    n = len(values)
    if n <= 2 * WINDOWS:
        return np.arange(n)
    width = -(-n // WINDOWS)
    padded = np.full(WINDOWS * width, np.nan)
    padded[:n] = values
    rows = padded.reshape(WINDOWS, width)
    lowest = np.where(np.isfinite(rows), rows, np.inf).argmin(axis=1)
    highest = np.where(np.isfinite(rows), rows, -np.inf).argmax(axis=1)
    shown = np.unique(np.arange(WINDOWS) * width + np.stack([lowest, highest]))
    return shown[shown < n]
