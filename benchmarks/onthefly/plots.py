"""The report's plots."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.onthefly.contestant import Trial
from benchmarks.onthefly.oracle import ORACLES
from benchmarks.onthefly.report import Report, ScenarioReport
from benchmarks.onthefly.runs import DRAWN_SEED
from benchmarks.onthefly.scenarios import AT_THE_END, IN_THE_MIDDLE, Scenario
from benchmarks.onthefly.shapes import SCHEDULES
from benchmarks.quality.measures import Choice, Outcome, Standing
from benchmarks.quality.panels import legend, panels

_HIGHEST = 3.0
"""Ratios above it, and diverged runs, are drawn at it."""
_N_LRS = 400


def save_plots(report: Report, directory: Path) -> None:
    """Writes ratios.png, and the courses of one workload of each scenario, courses.png."""
    ratios(report).savefig(directory / "ratios.png", dpi=110)
    courses(report).savefig(directory / "courses.png", dpi=110)


def ratios(report: Report) -> Figure:
    """Every contestant's ratios to the reference: a dot for each workload and seed, a bar for the mean."""
    n_rows = math.ceil(len(report.scenarios) / 3)
    figure = Figure(figsize=(15, 3.6 * n_rows + 0.5), layout="constrained")
    all_axes = list(figure.subplots(n_rows, 3, squeeze=False).flat)
    for unused in all_axes[len(report.scenarios) :]:
        unused.remove()
    for own, axes in zip(report.scenarios, all_axes, strict=False):
        _draw_ratios(own, axes)
    legend(figure, all_axes[: len(report.scenarios)])
    return figure


def _draw_ratios(own: ScenarioReport, axes: Axes) -> None:
    shown = [standing for standing in own.ranked if standing.choice is not Choice.PICKED]
    for row, standing in enumerate(shown):
        found = own.to_reference(standing)
        if found is None:
            continue
        for i, workload in enumerate(own.scenario.workloads):
            points = [min(ratio, _HIGHEST) for case, ratio in found.by_case.items() if case.workload == workload.name]
            label = f"workload {i + 1} of the scenario"
            axes.plot(points, [row + 0.2 * (i - 1)] * len(points), "o", markersize=4, color=f"C{i}", label=label)
        if not found.n_diverged:
            error = found.standard_error or 0.0
            bounds = [[found.mean * -math.expm1(-error)], [found.mean * math.expm1(error)]]
            axes.errorbar([found.mean], [row], xerr=bounds, fmt="|", color="black", label="mean, standard error")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [standing.contestant for standing in shown])
    names = ", ".join(workload.name.split(", ")[0] for workload in own.scenario.workloads)
    axes.set(xlabel=f"final loss / {own.scenario.reference}\n({names})", title=own.scenario.name)
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.invert_yaxis()


def courses(report: Report) -> Figure:
    """Validation loss and LR over steps of one workload of every scenario, with one seed."""
    shown = [own for own in report.scenarios if own.scenario.share == 1.0 and own.standings]
    titles = [f"{own.scenario.name}: {what}" for own in shown for what in ("validation loss", "LR")]
    figure, by_title = panels(titles)
    all_axes = list(by_title.values())
    for i, own in enumerate(shown):
        losses, lrs = all_axes[2 * i : 2 * i + 2]
        for standing in own.standings:
            if standing.choice is not Choice.PICKED and standing.contestant not in ("sgdr", "infinite"):
                _draw_course(report, own.scenario, standing, losses, lrs)
        losses.set(xlabel=f"step ({_drawn(own.scenario)})", yscale="log")
        lrs.set(xlabel="step")
    legend(figure, all_axes)
    return figure


def _drawn(scenario: Scenario) -> str:
    """The workload whose courses are drawn."""
    names = [workload.name for workload in scenario.workloads]
    return next((name for name in names if name.startswith("mlp")), names[0])


def _draw_course(report: Report, scenario: Scenario, standing: Standing, losses: Axes, lrs: Axes) -> None:
    label = _LABELS.get(standing.contestant, standing.contestant)
    color = _COLORS.get(label)
    for outcome in standing.outcomes:
        if (outcome.key.workload, outcome.key.seed) != (_drawn(scenario), DRAWN_SEED):
            continue
        losses.plot(outcome.curve.val_steps, outcome.curve.val_losses, label=label, color=color, linewidth=1.1)
        lrs.plot(*_lrs(report, outcome), label=label, color=color, linewidth=1.1)


_LABELS = {
    f"oracle, {AT_THE_END}": "oracle",
    f"oracle, {IN_THE_MIDDLE}": "oracle",
    f"budget, {AT_THE_END}": "budget, told",
    f"budget, {IN_THE_MIDDLE}": "budget, told",
    "budget, fresh at the end": "budget, fresh",
    "budget, fresh in the middle": "budget, fresh",
}
_COLORS = {
    "oracle": "black",
    "linear": "C0",
    "wsd": "C2",
    "budget, told": "C3",
    "budget, not told": "C1",
    "budget, fresh": "C4",
    "open_ended": "C3",
}


def _lrs(report: Report, outcome: Outcome) -> tuple[list[int], list[float]]:
    """Steps, and the LR at each: computed for schedules, recorded for tuners."""
    key = outcome.key
    followed = (SCHEDULES | ORACLES).get(key.contestant)
    if followed is None:
        return outcome.curve.val_steps, outcome.curve.lrs
    trial = Trial(key.lr, key.seed, key.n_steps, report.planned.first_lrs.get(key))
    steps = sorted({key.n_steps * i // _N_LRS for i in range(_N_LRS)})
    return steps, [followed.lr(trial, step) for step in steps]
