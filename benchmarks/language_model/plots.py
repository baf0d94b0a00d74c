"""The report's plot."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.language_model.contestants import CONTESTANTS, REFERENCE
from benchmarks.language_model.report import Report
from benchmarks.quality.measures import Choice
from benchmarks.quality.panels import legend, panels

_COURSES, _LRS, _DIFFERENCES = "validation loss", "final loss over peak LR", "beyond the best decay"


def save_plots(report: Report, directory: Path) -> None:
    """Writes language_model.png: losses over steps, final losses over LRs, and differences within seeds."""
    figure, all_axes = panels((_COURSES, _LRS, _DIFFERENCES))
    _draw_courses(report, all_axes[_COURSES])
    _draw_lrs(report, all_axes[_LRS])
    _draw_differences(report, all_axes[_DIFFERENCES])
    legend(figure, all_axes.values())
    figure.savefig(directory / "language_model.png", dpi=150)


def _color(contestant: str) -> str:
    return f"C{list(CONTESTANTS).index(contestant)}"


def _draw_courses(report: Report, axes: Axes) -> None:
    """Draws the best run of each seed of a sweep. The first validations, far above all others, are left out."""
    for standing in report.found:
        if standing.choice not in (Choice.BEST, Choice.ONLY):
            continue
        for outcome in standing.outcomes:
            kept = [point for point in zip(outcome.curve.val_steps, outcome.curve.val_losses, strict=True)
                    if point[0] >= report.size.n_steps / 10]  # fmt: skip
            axes.plot(*zip(*kept, strict=True), color=_color(standing.contestant), alpha=0.7, label=standing.name)
    axes.set(xlabel="step, search included", ylabel="nats a byte")


def _draw_lrs(report: Report, axes: Axes) -> None:
    for seed in range(report.size.n_seeds):
        sweep = sorted(
            (key.lr, curve.final_val_loss)
            for key, curve in report.runs.items()
            if key.contestant == REFERENCE and key.seed == seed and key.lr is not None
        )
        finite = [point for point in sweep if math.isfinite(point[1])]
        axes.plot([lr for lr, _ in finite], [loss for _, loss in finite], ".-", color=_color(REFERENCE), alpha=0.7)
    for standing in report.found:
        points = [(o.lr, o.curve.final_val_loss) for o in standing.outcomes if o.lr is not None]
        if standing.choice is Choice.ONLY and points:
            axes.plot(*zip(*points, strict=True), "*", color=_color(standing.contestant), markersize=11)
    axes.set(xlabel="peak LR (stars: chosen by a search)", ylabel="nats a byte", xscale="log")


def _draw_differences(report: Report, axes: Axes) -> None:
    shown = [(standing, report.beyond(standing, Choice.BEST)) for standing in report.found]
    named = [(standing.name, standing.contestant, found) for standing, found in shown if found is not None]
    for row, (_, contestant, found) in enumerate(named):
        values = [math.log(ratio) for ratio in found.by_case.values() if math.isfinite(ratio)]
        axes.plot(values, [row] * len(values), "o", color=_color(contestant), alpha=0.7)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(named)), [name for name, _, _ in named])
    axes.invert_yaxis()
    axes.set(xlabel="nats a byte, a dot a seed")
    axes.grid(visible=True, axis="x", alpha=0.3)
