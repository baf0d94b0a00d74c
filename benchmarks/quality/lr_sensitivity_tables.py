"""Tables and plot of LR sensitivities."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.quality.lr_sensitivity import LrSensitivity
from benchmarks.quality.report import Report
from benchmarks.quality.tables import NOTHING, count, table

NOTES = """\
The mean over the LRs of a workload's grid of what a run with that LR ends above the best of them, as a part of what the
best one gained since initialisation (Wortsman et al. 2023). A run that diverged, or ended above where it began, counts
as one that gained nothing. `budget, LR /30 to x30`: our policy, over three LRs that the user's optimizer carried; it is
held to a range of 900, and a grid to one of 1,000. Behind ± is the standard error over seeds."""


def by_length_table(report: Report) -> str:
    """All contestants of the figures by length, over all workloads that they have."""
    named = [own for own in report.lr_sensitivities if own.contestant not in report.plan.stored_contestants]
    return _table(named, report.workloads, of=None)


def stored_table(report: Report) -> str:
    """All contestants at the main length, over the cases of those that have tables of their own."""
    cases = report.plan.stored_cases(report.plan.main_length)
    found = [own.within(cases) for own in report.lr_sensitivities if own.n_steps == report.plan.main_length]
    ranked = sorted((own for own in found if own), key=lambda own: own.mean)
    names = list(dict.fromkeys(workload.name for part in report.plan.stored for workload in part.workloads))
    return _table(ranked, names, of=len(cases))


def _table(rows: Sequence[LrSensitivity], workloads: Sequence[str], of: int | None) -> str:
    header = ["contestant", "steps", "cases", "all", *workloads]
    return table(header, [_row(own, workloads, of) for own in rows])


def _row(own: LrSensitivity, workloads: Sequence[str], of: int | None) -> list[str]:
    by_workload, error = own.by_workload, own.standard_error
    n_cases = str(len(own.losses)) if of is None else f"{len(own.losses)}/{of}"
    cells = [f"{by_workload[name]:.1%}" if name in by_workload else NOTHING for name in workloads]
    mean = f"{own.mean:.1%}" + ("" if error is None else f" ±{error:.1%}")
    return [own.contestant, count(own.n_steps), n_cases, mean, *cells]


def sensitivities(report: Report) -> Figure:
    """Sensitivities by workload at the main length, a dot for each case."""
    shown = [own for own in report.lr_sensitivities if own.n_steps == report.plan.main_length]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for i, own in enumerate(shown):
        beside = (i + 0.5) / max(len(shown), 1) - 0.5
        places = [report.workloads.index(case.workload) + 0.8 * beside for case in own.shares]
        axes.plot(places, [100 * share for share in own.shares.values()], "o", markersize=3, label=own.contestant)
    axes.set_xticks(range(len(report.workloads)), report.workloads, rotation=30, ha="right")
    axes.set(ylabel="LR sensitivity, % of the best gain", ylim=(-2, None))
    axes.grid(visible=True, axis="y", alpha=0.3)
    if shown:
        figure.legend(frameon=False, loc="outside lower center", ncols=5)
    return figure
