"""The report for readers."""

from __future__ import annotations

from benchmarks.onthefly.report import Report, ScenarioReport
from benchmarks.quality.tables import NOTHING, count, mean, number, table, worst

NOTES = """\
A score is the final validation loss, on the new data where they change, after the same number of optimizer steps for
all, search included. `to reference`: the score over that of the reference, with the best LRs of its sweep in
hindsight. `to best`: the score over the lowest one of all schedules and LRs that were swept for that workload and seed,
the oracle's among them. Means are geometric, over workloads of the means over seeds; behind ± is the standard error,
with the workloads as fixed and the seeds as the sample. A star: more than two standard errors away from 1.
`best of grid` is chosen by the very runs that it is judged by, `picked on other seeds` by the others of its workload.
`runs`: training runs that one result takes. `search`: share of the steps that was rolled back."""


def as_markdown(report: Report) -> str:
    """All tables, with what they mean."""
    plan = report.plan
    head = f"Steps: {count(plan.n_steps)}, the change after {count(plan.n_steps // 2)}. Seeds: {plan.n_seeds}."
    parts = ["# On the fly", head, _incomplete(report), NOTES]
    for own in report.scenarios:
        title = f"## {own.scenario.name}"
        if own.n_steps != plan.n_steps:
            title += f" ({count(own.n_steps)} steps)"
        parts += [title, f"{own.scenario.what} Reference: `{own.scenario.reference}`.", _table(own), _edges(own)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _incomplete(report: Report) -> str:
    lines = []
    for own in report.scenarios:
        keys = report.planned.by_scenario[own.scenario.name]
        missing = []
        for name in own.scenario.contestants:
            planned = [key for key in keys if key.contestant == name]
            n_done = sum(key in report.runs for key in planned)
            n_waiting = report.planned.n_waiting.get((own.scenario.name, name), 0)
            if n_done < len(planned):
                missing.append(f"{name} {n_done}/{len(planned)}")
            if n_waiting:
                missing.append(f"{name}: {n_waiting} sweeps wait for the runs before the change")
        if missing:
            lines.append(f"- {own.scenario.name}: {'; '.join(missing)}")
    return "Incomplete (finished/planned runs):\n\n" + "\n".join(lines) if lines else ""


def _table(own: ScenarioReport) -> str:
    names = [workload.name for workload in own.scenario.workloads]
    rows = []
    for standing in own.ranked:
        ratios = own.to_reference(standing)
        by_workload = [ratios.of(name) if ratios else None for name in names]
        rows.append(
            (
                standing.name,
                f"{len(standing.outcomes)}/{own.n_cases}",
                mean(ratios),
                mean(own.to_hindsight(standing)),
                worst(ratios),
                *(number(one.mean) if one else NOTHING for one in by_workload),
                str(standing.n_runs),
                f"{standing.search_share:.1%}",
            )
        )
    return (
        table(("contestant", "cases", "to reference", "to best", "worst", *names, "runs", "search"), rows)
        if rows
        else ""
    )


def _edges(own: ScenarioReport) -> str:
    """Where sweeps were too narrow."""
    edges = "; ".join(f"{name} {n_edges}/{own.n_cases}" for name, n_edges in own.at_edges.items())
    return f"The best LR lies at the edge of the grid: {edges}." if edges else ""
