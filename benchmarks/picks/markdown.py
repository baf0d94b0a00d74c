"""The report in Markdown, and in plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.picks.report import Report, Row
from benchmarks.picks.scatter import Exponents
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.tables import NOTHING, count, number, table

_NOTES = """\
Simulated picks of policy `budget`: final score over the best of the sweep of linear decays, times the cost of the steps
of the search. Mean ± its standard error, relative to it (worst case), by steps of a run. Workloads are fixed, seeds are
the sample; without an error, a workload has one seed only. `-`: the run is too short for such a search, or there is no
such case."""


def as_markdown(report: Report) -> str:
    """All tables."""
    parts = ["# Picks", _NOTES]
    for title, workloads in (("Usual workloads", report.usual), ("Hard workloads", report.hard)):
        if workloads:
            parts += [f"## {title}", f"{', '.join(workloads)}."]
            for group in report.groups:
                parts += [f"### {group}", _ratio_table(report, group, workloads)]
    parts += ["## Part of the steps that is searched, usual workloads", _search_table(report)]
    parts += [
        "## The best factor on the optimum of a probe",
        "From a dense grid of probes, at no cost, to runs. In brackets: what policy `budget` takes.",
        _ideal_table(report, lambda ideal: f"{ideal.factor:.2f} ({ideal.used:.2f})"),
        "Ratio to the best of the sweep with these factors:",
        _ideal_table(report, lambda ideal: f"{_short(ideal.ratios)} ({_short(ideal.used_ratios)})"),
        "## Scatter of the optimum from seed to seed",
        "Standard deviation of the log LR over the seeds of a workload, pooled, by steps of a probe.",
        table(("steps", "deviation"), [(str(n), f"{sd:.2f}") for n, sd in report.scatter.optima.items()]),
        "The exponent from two lengths of probe, and from a probe to the best LR of sweeps.",
        _exponent_table((*report.scatter.between_probes, *report.scatter.to_runs)),
    ]
    if report.comparisons:
        parts += ["## Beside real runs", _comparison_table(report)]
    return "\n\n".join(parts) + "\n"


def _ratio_table(report: Report, group: str, workloads: Sequence[str]) -> str:
    rows = [
        [row.variation.title, *(_cell(row.ratios(n_steps, workloads)) for n_steps in report.lengths)]
        for row in report.of_group(group)
    ]
    return table([group, *map(count, report.lengths)], rows)


def _cell(ratios: Ratios | None) -> str:
    if ratios is None:
        return NOTHING
    error = ratios.standard_error
    return f"{_short(ratios)}{'' if error is None else f' ±{error:.1%}'} ({ratios.worst:.2f})"


def _short(ratios: Ratios) -> str:
    return number(ratios.mean)


def _search_table(report: Report) -> str:
    rows = []
    for row in report.of_group(report.groups[0]):
        shares = [row.search_share(n_steps, report.usual) for n_steps in report.lengths]
        rows.append([row.variation.title, *(NOTHING if share is None else f"{share:.1%}" for share in shares)])
    return table([report.groups[0], *map(count, report.lengths)], rows)


def _ideal_table(report: Report, cell: Callable[..., str]) -> str:
    found = {(ideal.probe_steps, ideal.n_steps): cell(ideal) for ideal in report.ideals}
    probe_steps = dict.fromkeys(n for n, _ in found)
    rows = [[str(n), *(found.get((n, n_steps), NOTHING) for n_steps in report.lengths)] for n in probe_steps]
    return table(["probe", *map(count, report.lengths)], rows)


def _exponent_table(exponents: Sequence[Exponents]) -> str:
    rows = [
        (count(e.short), count(e.long), f"{e.mean:.2f}", f"{e.over_seeds:.2f}", f"{e.over_workloads:.2f}")
        for e in exponents
    ]
    return table(("from", "to", "mean", "deviation over seeds", "deviation over workloads"), rows)


def _comparison_table(report: Report) -> str:
    rows = [
        (count(c.n_steps), str(len(c.real.by_case)), f"{c.distance:.2f}", _cell(c.simulated), _cell(c.real))
        for c in report.comparisons
    ]
    return table(("steps", "cases", "distance of log LR, median", "simulated", "real"), rows)


def as_json(report: Report) -> dict[str, Any]:
    """The figures in plain values."""
    return {
        "picks": [
            {"workloads": name, "group": row.variation.group, "title": row.variation.title, **found}
            for row in report.rows
            for name, workloads in (("usual", report.usual), ("hard", report.hard))
            for found in _of_row(report, row, workloads)
        ],
        "ideals": [
            {
                "probe_steps": ideal.probe_steps,
                "n_steps": ideal.n_steps,
                "factor": ideal.factor,
                **_figures(ideal.ratios),
                "used_factor": ideal.used,
                "used_mean": ideal.used_ratios.mean,
                "mean_by_factor": {f"{factor:.4g}": mean for factor, mean in ideal.means.items()},
            }
            for ideal in report.ideals
        ],
        "scatter": asdict(report.scatter),
        "real": [
            {
                "n_steps": c.n_steps,
                "median_log_distance": c.distance,
                "simulated": _figures(c.simulated),
                "real": _figures(c.real),
            }
            for c in report.comparisons
        ],
    }


def _of_row(report: Report, row: Row, workloads: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"n_steps": n_steps, "search_share": row.search_share(n_steps, workloads), **_figures(ratios)}
        for n_steps in report.lengths
        if (ratios := row.ratios(n_steps, workloads))
    ]


def _figures(ratios: Ratios) -> Mapping[str, Any]:
    return {
        "cases": len(ratios.by_case),
        "mean": ratios.mean,
        "standard_error": ratios.standard_error,
        "worst": ratios.worst,
        "worst_case": ratios.worst_case._asdict(),
    }
