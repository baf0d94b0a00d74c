"""The report's plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from benchmarks.quality import comparison_plots, length_plots, lr_sensitivity_tables
from benchmarks.quality.measures import Choice, Outcome, Standing
from benchmarks.quality.panels import COLUMNS, legend, panels
from benchmarks.quality.plan import OURS, REFERENCE
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.report import DRAWN, Report

_EDGE = 0.98
"""Where diverged runs are drawn, in parts of the axis."""


def save_plots(report: Report, directory: Path) -> None:
    """Writes ratios, losses, lrs, sensitivities.png of the main length; lengths, workloads, comparison.png of more."""
    figures = {
        "ratios": ratios(report),
        "losses": losses(report),
        "lrs": lrs(report),
        "sensitivities": lr_sensitivity_tables.sensitivities(report),
        "lengths": length_plots.lengths(report),
        "workloads": length_plots.workloads(report),
        "comparison": comparison_plots.comparison(report),
    }
    for name, figure in figures.items():
        figure.savefig(directory / f"{name}.png", dpi=150)


def _shown(report: Report) -> list[tuple[Standing, Ratios]]:
    """The standings of `ratios`, each with its ratios to hindsight: of the stored runs, or, without any, of all."""
    standings = report.stored or report.headline(report.plan.main_length)
    found = ((standing, Ratios.between(standing.scores, report.hindsight)) for standing in standings)
    return [(standing, own) for standing, own in found if own]


def ratios(report: Report) -> Figure:
    """Every contestant's ratios, a dot for each workload and seed; diverged runs at the right edge."""
    shown = _shown(report)
    names = list(dict.fromkeys(workload for _, own in shown for workload in own.workloads))
    figure = Figure(figsize=(8, 1.2 + 0.3 * max(len(shown), 4)), layout="constrained")
    axes = figure.subplots()
    for i, workload in enumerate(names):
        points = [
            (ratio, row + (i / max(1, len(names) - 1) - 0.5) * 0.5)
            for row, (_, own) in enumerate(shown)
            for case, ratio in own.by_case.items()
            if case.workload == workload
        ]
        finite = [point for point in points if math.isfinite(point[0])]
        color = colormaps["tab20" if len(names) > 10 else "tab10"](i)
        axes.plot(*_columns(finite), "o", markersize=4, alpha=0.7, color=color, label=workload)
        rows = [y for ratio, y in points if math.isinf(ratio)]
        axes.plot([_EDGE] * len(rows), rows, "x", color=color, transform=axes.get_yaxis_transform())
    means = [(own.mean, row) for row, (_, own) in enumerate(shown) if math.isfinite(own.mean)]
    axes.plot(*_columns(means), "|", color="black", markersize=14, label="geometric mean")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [standing.name for standing, _ in shown])
    axes.set(xscale="log", xlabel="final score / best linear decay of the grid in hindsight (x: diverged)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.invert_yaxis()
    figure.legend(frameon=False, loc="outside lower center", ncols=COLUMNS)
    return figure


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def losses(report: Report) -> Figure:
    """Validation loss over steps at the main length, search included."""
    figure, all_axes = panels(report.workloads)
    for workload, axes in all_axes.items():
        for i, (contestant, choice) in enumerate(DRAWN):
            for outcome in report.drawn:
                if (outcome.key.contestant, outcome.key.workload) == (contestant, workload):
                    label = contestant if choice is Choice.ONLY else f"{contestant}, {choice}"
                    axes.plot(outcome.curve.val_steps, outcome.curve.val_losses, color=f"C{i}", label=label)
        axes.set(xlabel="step", ylabel="validation loss")
        _plain_log(axes)
    legend(figure, all_axes.values())
    return figure


def lrs(report: Report) -> Figure:
    """Final loss of the reference's schedule over its peak LR at the main length, and what our choice of one led to."""
    n_steps = report.plan.main_length
    figure, all_axes = panels(report.workloads)
    for workload, axes in all_axes.items():
        for seed in sorted({key.seed for key in report.planned.keys if key.n_steps == n_steps}):
            grid = sorted(
                (key.lr, curve.final_val_loss)
                for key, curve in report.runs.items()
                if (key.contestant, key.workload, key.seed, key.n_steps) == (REFERENCE, workload, seed, n_steps)
                and key.lr is not None
            )
            finite = [(lr, loss) for lr, loss in grid if math.isfinite(loss)]
            axes.plot(*_columns(finite), ".-", color=f"C{seed}", alpha=0.6, label=f"{REFERENCE}, seed {seed}")
            diverged = [lr for lr, loss in grid if math.isinf(loss)]
            axes.plot(diverged, [_EDGE] * len(diverged), "x", color=f"C{seed}", transform=axes.get_xaxis_transform())
            for outcome in _outcomes_of(report.standing(OURS, n_steps), workload):
                if outcome.key.seed == seed and outcome.lr is not None:
                    loss = outcome.curve.final_val_loss
                    axes.plot(outcome.lr, loss, "*", color=f"C{seed}", markersize=11, label=f"{OURS}, seed {seed}")
        axes.set(xlabel="peak LR (x: diverged)", ylabel="final validation loss", xscale="log")
        _plain_log(axes)
    legend(figure, all_axes.values())
    return figure


def _outcomes_of(standing: Standing | None, workload: str) -> list[Outcome]:
    return [outcome for outcome in standing.outcomes if outcome.key.workload == workload] if standing else []


def _plain_log(axes: Axes) -> None:
    """A logarithmic axis of losses with plain numbers, since it spans less than a decade or two.

    A linear one where losses are negative.
    """
    if axes.dataLim.y0 > 0:
        axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
