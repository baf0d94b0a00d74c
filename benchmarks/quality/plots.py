"""The report's plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from benchmarks.quality.measures import REFERENCE, Choice, Outcome, Standing
from benchmarks.quality.report import OURS, Report

_COLUMNS = 4
_EDGE = 0.98
"""Where diverged runs are drawn, in parts of the axis."""
_SEED = 0
"""Of which losses are drawn over steps."""


def save_plots(report: Report, directory: Path) -> None:
    """Writes ratios.png, losses.png and lrs.png."""
    for name, figure in (("ratios", ratios(report)), ("losses", losses(report)), ("lrs", lrs(report))):
        figure.savefig(directory / f"{name}.png", dpi=150)


def ratios(report: Report) -> Figure:
    """Every contestant's ratios, a dot for each workload and seed; diverged runs at the right edge."""
    shown = report.headline
    figure = Figure(figsize=(8, 1.2 + 0.3 * max(len(shown), 4)), layout="constrained")
    axes = figure.subplots()
    for i, workload in enumerate(report.workloads):
        points = [
            (ratio, row + (i - (len(report.workloads) - 1) / 2) * 0.08)
            for row, standing in enumerate(shown)
            for case, ratio in standing.ratios.by_case.items()
            if case.workload == workload
        ]
        finite = [point for point in points if math.isfinite(point[0])]
        color = colormaps["tab10"](i)
        axes.plot(*_columns(finite), "o", markersize=4, alpha=0.7, color=color, label=workload)
        rows = [y for ratio, y in points if math.isinf(ratio)]
        axes.plot([_EDGE] * len(rows), rows, "x", color=color, transform=axes.get_yaxis_transform())
    means = [(standing.ratios.mean, row) for row, standing in enumerate(shown) if math.isfinite(standing.ratios.mean)]
    axes.plot(*_columns(means), "|", color="black", markersize=14, label="geometric mean")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [standing.name for standing in shown])
    axes.set(xscale="log", xlabel="final validation loss / best linear decay of the grid (x: diverged)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.invert_yaxis()
    figure.legend(frameon=False, loc="outside lower center", ncols=_COLUMNS)
    return figure


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def losses(report: Report) -> Figure:
    """Validation loss over steps, search included."""
    figure, panels = _panels(report)
    choices = ((REFERENCE, Choice.BEST), (OURS, Choice.ONLY), ("autolrs", Choice.ONLY))
    for workload, axes in zip(report.workloads, panels, strict=True):
        for i, (contestant, choice) in enumerate(choices):
            for outcome in _outcomes_of(report.standing(contestant, choice), workload):
                if outcome.key.seed == _SEED:
                    label = contestant if choice is Choice.ONLY else f"{contestant}, {choice}"
                    axes.plot(outcome.curve.val_steps, outcome.curve.val_losses, color=f"C{i}", label=label)
        axes.set(title=workload, xlabel="step", ylabel="validation loss")
        _plain_log(axes)
    _legend(figure, panels)
    return figure


def lrs(report: Report) -> Figure:
    """Final loss of the reference's schedule over its peak LR, and what our choice of a peak LR led to."""
    figure, panels = _panels(report)
    for workload, axes in zip(report.workloads, panels, strict=True):
        for seed in sorted({key.seed for key in report.planned}):
            grid = sorted(
                (key.lr, curve.final_val_loss)
                for key, curve in report.runs.items()
                if (key.contestant, key.workload, key.seed) == (REFERENCE, workload, seed) and key.lr is not None
            )
            finite = [(lr, loss) for lr, loss in grid if math.isfinite(loss)]
            axes.plot(*_columns(finite), ".-", color=f"C{seed}", alpha=0.6, label=f"{REFERENCE}, seed {seed}")
            diverged = [lr for lr, loss in grid if math.isinf(loss)]
            axes.plot(diverged, [_EDGE] * len(diverged), "x", color=f"C{seed}", transform=axes.get_xaxis_transform())
            for outcome in _outcomes_of(report.standing(OURS), workload):
                if outcome.key.seed == seed and outcome.lr is not None:
                    loss = outcome.curve.final_val_loss
                    axes.plot(outcome.lr, loss, "*", color=f"C{seed}", markersize=11, label=f"{OURS}, seed {seed}")
        axes.set(title=workload, xlabel="peak LR (x: diverged)", ylabel="final validation loss", xscale="log")
        _plain_log(axes)
    _legend(figure, panels)
    return figure


def _panels(report: Report) -> tuple[Figure, list[Axes]]:
    """A panel for every workload."""
    n_panels = len(report.workloads)
    n_rows, n_columns = math.ceil(n_panels / _COLUMNS), min(n_panels, _COLUMNS)
    figure = Figure(figsize=(3.4 * n_columns, 2.8 * n_rows + 0.5), layout="constrained")
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for unused in panels[n_panels:]:
        unused.remove()
    return figure, panels[:n_panels]


def _outcomes_of(standing: Standing | None, workload: str) -> list[Outcome]:
    return [outcome for outcome in standing.outcomes if outcome.key.workload == workload] if standing else []


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(list(handles.values()), list(handles), frameon=False, loc="outside lower center", ncols=_COLUMNS)


def _plain_log(axes: Axes) -> None:
    """A logarithmic axis of losses with plain numbers: it spans less than a decade or two."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
