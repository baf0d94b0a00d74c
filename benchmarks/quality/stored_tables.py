"""Tables of what was run at the main length only, beside the others over the same cases."""

from __future__ import annotations

import math
import statistics

from benchmarks.quality.measures import Choice, Standing
from benchmarks.quality.plan import REFERENCE
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.report import Report
from benchmarks.quality.tables import NOTHING, count, mean, number, ruined, table, worst


def stored_table(report: Report) -> str:
    """All contestants but the variants."""
    rows = []
    for standing in report.stored:
        ratios = Ratios.between(standing.scores, report.hindsight)
        steps = steps_to_reference(report, standing)
        median = statistics.median(steps) if steps else math.inf
        rows.append(
            (
                standing.name,
                f"{len(standing.outcomes)}/{len(report.plan.stored_cases(report.plan.main_length))}",
                mean(ratios),
                mean(Ratios.between(standing.scores, report.picked)),
                worst(ratios),
                ruined(report.ruins(standing)),
                count(median),
                f"{sum(map(math.isfinite, steps))}/{len(steps)}",
                f"{standing.search_share:.1%}",
                str(standing.n_runs),
                count(median * standing.n_runs),
            )
        )
    header = (
        "contestant, cases, to hindsight, to picked, worst to hindsight, ruined, steps to reference, reached, "
        "search, runs, total steps"
    )
    return table(header.split(", "), rows)


def steps_to_reference(report: Report, standing: Standing) -> list[float]:
    """Steps of every outcome up to the loss of the hindsight reference, where there is a finite one."""
    reference = report.standing(REFERENCE, standing.n_steps, Choice.BEST)
    losses = {o.case: o.curve.final_val_loss for o in reference.outcomes if not o.curve.diverged} if reference else {}
    return [outcome.steps_to(losses[outcome.case]) for outcome in standing.outcomes if outcome.case in losses]


def stored_workload_table(report: Report) -> str:
    """The table by workload: geometric mean over seeds, lowest and highest."""
    workloads = list(dict.fromkeys(workload.name for part in report.plan.stored for workload in part.workloads))
    rows = []
    for standing in report.stored:
        if standing.choice is not Choice.MEDIAN:
            ratios = Ratios.between(standing.scores, report.hindsight)
            rows.append([standing.name, *(_spread(ratios.of(w) if ratios else None) for w in workloads)])
    return table(["contestant", *workloads], rows)


def _spread(ratios: Ratios | None) -> str:
    if ratios is None:
        return NOTHING
    spread = f" ({number(ratios.best)}..{number(ratios.worst)})" if len(ratios.by_case) > 1 else ""
    return number(ratios.mean) + spread


def ablation_table(report: Report) -> str:
    """Variants of a policy's options over the plain one."""
    rows = []
    for standing, base in report.ablations:
        if ratios := Ratios.between(standing.scores, base.scores):
            cases = f"{len(ratios.by_case)}/{len(report.planned.cases[standing.contestant, standing.n_steps])}"
            to_hindsight = mean(Ratios.between(standing.scores, report.hindsight))
            n_ruined = ruined(report.ruins(standing))
            rows.append(
                (standing.contestant, base.contestant, cases, mean(ratios), worst(ratios), to_hindsight, n_ruined)
            )
    return table(("variant", "relative to", "cases", "ratio", "worst", "to hindsight", "ruined"), rows)
