"""Every system's mean ratio to the best linear decay, in one figure."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality.comparison import Row, rows
from benchmarks.quality.plan import OURS
from benchmarks.quality.report import Report

_ERRORS = 2
"""Standard errors that a bar is long, either way."""
_END = 1.5
"""Ratios above it are drawn there, as triangles with their number."""


def comparison(report: Report) -> Figure:
    """One line a system, best first, with a marker and a bar for each length."""
    found, lengths = rows(report), report.plan.stored_lengths
    figure = Figure(figsize=(9, 1.5 + 0.3 * max(4, len(found))), layout="constrained")
    axes = figure.subplots()
    for i, n_steps in enumerate(lengths):
        shift = 0.3 * (i - (len(lengths) - 1) / 2)
        _draw(axes, report, found, n_steps, shift, f"C{i}")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), [row.name for row in found])
    for label, row in zip(axes.get_yticklabels(), found, strict=True):
        label.set_fontweight("bold" if row.system.contestant == OURS else "normal")
    axes.set_xlabel(f"final score / best linear decay of the grid in hindsight (bars: {_ERRORS} standard errors)")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.invert_yaxis()
    if found:
        figure.legend(frameon=False, loc="outside lower center", ncols=len(lengths))
    return figure


def _draw(axes: Axes, report: Report, found: list[Row], n_steps: int, shift: float, color: str) -> None:
    """One length's markers."""
    ratios = {i: own for i, row in enumerate(found) if (own := row.ratios(report, n_steps))}
    drawn = {i: own for i, own in ratios.items() if own.mean <= _END}
    bars = [math.exp(_ERRORS * (own.standard_error or 0.0)) for own in drawn.values()]
    means = [own.mean for own in drawn.values()]
    axes.errorbar(
        means,
        [i + shift for i in drawn],
        xerr=[
            [mean - mean / bar for mean, bar in zip(means, bars, strict=True)],
            [mean * bar - mean for mean, bar in zip(means, bars, strict=True)],
        ],
        fmt="o",
        markersize=4,
        capsize=2.5,
        color=color,
        label=f"{n_steps:,} steps",
    )
    for i, own in ratios.items():
        if i not in drawn:
            axes.plot(_END, i + shift, ">", color=color, markersize=4)
            value = f"{own.mean:.2f}" if math.isfinite(own.mean) else "∞"
            axes.annotate(value, (_END, i + shift), (5, -3), textcoords="offset points", fontsize=7, color=color)
