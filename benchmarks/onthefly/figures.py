"""The report for machines: JSON values."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.onthefly.report import Report, ScenarioReport
from benchmarks.quality.figures import ratios_json
from benchmarks.quality.measures import Standing


def as_json(report: Report) -> dict[str, Any]:
    """Everything as JSON values; what is infinite is null."""
    return {
        "n_steps": report.plan.n_steps,
        "n_seeds": report.plan.n_seeds,
        "n_runs": len(report.runs),
        "n_planned": len(report.planned.keys),
        "scenarios": [_scenario_json(own) for own in report.scenarios],
    }


def _scenario_json(own: ScenarioReport) -> dict[str, Any]:
    return {
        "name": own.scenario.name,
        "what": own.scenario.what,
        "reference": own.scenario.reference,
        "n_steps": own.n_steps,
        "workloads": [workload.name for workload in own.scenario.workloads],
        "best_lr_at_edge": own.at_edges,
        "standings": [_standing_json(own, standing) for standing in own.ranked],
    }


def _standing_json(own: ScenarioReport, standing: Standing) -> dict[str, Any]:
    return {
        "contestant": standing.contestant,
        "choice": standing.choice.value,
        "n_cases": len(standing.outcomes),
        "n_planned": own.n_cases,
        "to_reference": ratios_json(own.to_reference(standing)),
        "to_best": ratios_json(own.to_hindsight(standing)),
        "n_runs": standing.n_runs,
        "search_share": standing.search_share,
        "cases": [
            {
                "workload": outcome.key.workload,
                "seed": outcome.key.seed,
                "lr": outcome.lr,
                "score": outcome.score if math.isfinite(outcome.score) else None,
            }
            for outcome in standing.outcomes
        ],
    }
