"""Ratios over the length of the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.quality.cases import Case
from benchmarks.quality.measures import Choice
from benchmarks.quality.panels import legend, panels
from benchmarks.quality.plan import OURS, REFERENCE, SENSITIVITY
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.report import Report

_ERRORS = 2
"""Standard errors that a bar is long, either way."""
_BOTTOM, _TOP = 0.8, 1.2
"""The range of ratios that is drawn to scale; triangles at its ends stand for what is outside."""
_MARGIN = 1.01
"""Room for those triangles."""
_STYLES = ("o-", "s--", "v:", "D-.")


def lengths(report: Report) -> Figure:
    """Every contestant against both references over length, with dots for our cases."""
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, report, report.hindsight, skipped=Choice.BEST)
    left.set_title("to the best LR in hindsight")
    left.set_ylabel(f"final score / that of linear decay (bars: {_ERRORS} standard errors)")
    _draw(right, report, report.picked, skipped=Choice.PICKED)
    right.set_title("to the LR that is picked on other seeds")
    for axes in (left, right):
        _finish(axes, report.lengths)
    legend(figure, (left, right))
    return figure


def _names(report: Report, skipped: Choice) -> dict[str, tuple[str, Choice]]:
    """The contestants of one panel by name: ours first, the reference's choices, then the others."""
    found = {
        standing.name: (standing.contestant, standing.choice)
        for n_steps in report.lengths
        for standing in report.headline(n_steps)
        if standing.contestant not in SENSITIVITY and standing.choice is not Choice.MEDIAN
    }
    first = {OURS: (OURS, Choice.ONLY)}
    return {name: key for name, key in (first | found).items() if key != (REFERENCE, skipped)}


def _draw(axes: Axes, report: Report, reference: Mapping[Case, float], skipped: Choice) -> None:
    for i, (name, (contestant, choice)) in enumerate(_names(report, skipped).items()):
        found = {n_steps: report.standing(contestant, n_steps, choice) for n_steps in report.lengths}
        ratios = {n: Ratios.between(own.scores, reference) for n, own in found.items() if own}
        own = {n_steps: ratio for n_steps, ratio in ratios.items() if ratio}
        _line(axes, own, 1 + 0.025 * i, f"C{i % 10}", _STYLES[i % len(_STYLES)], name)
        if contestant == OURS:
            _dots(axes, own, 0.96, f"C{i % 10}")


def _line(axes: Axes, ratios: Mapping[int, Ratios], shift: float, color: str, style: str, label: str) -> None:
    """The means over length with bars of their errors; lengths are shifted, so that bars don't hide each other."""
    drawn = {n_steps: own for n_steps, own in ratios.items() if own.mean <= _TOP}
    bars = [math.exp(_ERRORS * (own.standard_error or 0.0)) for own in drawn.values()]
    means = [own.mean for own in drawn.values()]
    axes.errorbar(
        [n_steps * shift for n_steps in drawn],
        means,
        [
            [mean - mean / bar for mean, bar in zip(means, bars, strict=True)],
            [mean * bar - mean for mean, bar in zip(means, bars, strict=True)],
        ],
        fmt=style,
        markersize=4,
        linewidth=1.2,
        capsize=2.5,
        color=color,
        label=label,
    )
    for n_steps, own in ratios.items():
        if n_steps not in drawn:
            axes.plot(n_steps * shift, _TOP, "^", color=color)
            value = f"{own.mean:.2f}" if math.isfinite(own.mean) else "∞"
            axes.annotate(
                value,
                (n_steps * shift, _TOP),
                (0, -7),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="top",
                fontsize=7,
                color=color,
            )


def _dots(axes: Axes, ratios: Mapping[int, Ratios], shift: float, color: str) -> None:
    points = [(n_steps * shift, ratio) for n_steps, own in ratios.items() for ratio in own.by_case.values()]
    for marker, low, high in (("v", 0.0, _BOTTOM), (".", _BOTTOM, _TOP), ("^", _TOP, math.inf)):
        drawn = [(x, min(max(ratio, _BOTTOM), _TOP)) for x, ratio in points if low < ratio <= high]
        axes.plot(
            [x for x, _ in drawn],
            [ratio for _, ratio in drawn],
            marker,
            color=color,
            alpha=0.4,
            markeredgewidth=0,
            label=f"{OURS}, cases" if marker == "." else None,
        )


def _finish(axes: Axes, all_lengths: list[int]) -> None:
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="steps of a run", xlim=(all_lengths[0] * 0.85, all_lengths[-1] * 1.4))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, _BOTTOM / _MARGIN), min(top, _TOP * _MARGIN))
    axes.xaxis.set_major_locator(FixedLocator(all_lengths))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True, alpha=0.3)


def workloads(report: Report) -> Figure:
    """Our policy by workload against both references over length, with dots for the cases of the first."""
    figure, all_axes = panels(report.workloads)
    found = {n_steps: report.standing(OURS, n_steps) for n_steps in report.lengths}
    for i, (name, reference) in enumerate((("hindsight", report.hindsight), ("picked", report.picked))):
        ratios = {n: Ratios.between(own.scores, reference) for n, own in found.items() if own}
        for workload, axes in all_axes.items():
            own = {n: part for n, every in ratios.items() if every and (part := every.of(workload))}
            _line(axes, own, 1 + 0.12 * i, f"C{i}", _STYLES[i], f"{OURS} to {name}")
            if reference is report.hindsight:
                _dots(axes, own, 0.94, f"C{i}")
    for axes in all_axes.values():
        _finish(axes, report.lengths)
        axes.tick_params(axis="x", labelrotation=45)
    legend(figure, all_axes.values())
    return figure
