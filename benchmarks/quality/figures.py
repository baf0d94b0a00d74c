"""The report for machines: JSON values, all that a table or a plot needs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from benchmarks.quality.lr_pairs import LrPairs
from benchmarks.quality.lr_sensitivity import LrSensitivity
from benchmarks.quality.measures import Outcome, Standing
from benchmarks.quality.plan import REFERENCE, SENSITIVITY, Part
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.report import Report
from benchmarks.quality.results import RunKey
from benchmarks.quality.ruins import Ruins
from benchmarks.quality.stored_tables import steps_to_reference


def as_json(report: Report) -> dict[str, Any]:
    """Everything as JSON values; what is infinite is null, with the number of diverged runs beside it."""
    return {
        "references": {
            "hindsight": f"lowest score of {REFERENCE} over the LR grid, by workload, seed and length",
            "picked": f"score of {REFERENCE} with the LR of the lowest mean log score over the other seeds",
        },
        "lengths": report.lengths,
        "workloads": report.workloads,
        "plan": [_part_json(part) for part in report.plan.parts],
        "stored_plan": [_part_json(part) for part in report.plan.stored],
        "progress": [
            {"contestant": contestant, "n_steps": n_steps, **own._asdict()}
            for (contestant, n_steps), own in report.progress.items()
        ],
        "waiting": [entry._asdict() for entry in report.planned.waiting],
        "refused": [entry._asdict() for entry in report.planned.refused],
        "standings": [_standing_json(report, standing) for standing in report.standings],
        "stored": [_stored_json(report, standing) for standing in report.stored],
        "ours_over": [
            {**_name_json(standing), "ratio": ratios_json(report.ours_over(standing))}
            for n_steps in report.lengths
            for standing in report.headline(n_steps)
        ],
        "sensitivity": [
            {"contestant": name, "n_steps": n_steps, "ratio": ratios_json(ratios)}
            for name in SENSITIVITY
            for n_steps in report.lengths
            if (ratios := report.over_ours(name, n_steps))
        ],
        "ablations": [
            {
                "contestant": standing.contestant,
                "base": base.contestant,
                "ratio": ratios_json(Ratios.between(standing.scores, base.scores)),
            }
            for standing, base in report.ablations
        ],
        "lr_sensitivity": [_lr_sensitivity_json(own) for own in report.lr_sensitivities],
        "ruined": {name: _ruins_json(ruins) for name, ruins in report.ruins_by_name.items()},
        "users_lr": [_pairs_json(n, pairs) for n in report.lengths if (pairs := report.lr_pairs(n))],
        "curves": [_curve_json(outcome) for outcome in report.drawn],
        "runs": [_run_json(report, key) for key in report.runs],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "contestants": part.contestants,
        "lengths": part.lengths,
        "n_seeds": part.n_seeds,
        "workloads": [workload.name for workload in part.workloads],
    }


def _mean_json(ratios: Ratios) -> dict[str, Any]:
    return {
        "n_cases": len(ratios.by_case),
        "n_diverged": ratios.n_diverged,
        "mean": _finite(ratios.mean),
        "standard_error": ratios.standard_error,
        "range": [_finite(ratios.best), _finite(ratios.worst)],
    }


def ratios_json(ratios: Ratios | None) -> dict[str, Any] | None:
    """Mean, error and worst case, over all and by workload; None without ratios."""
    if ratios is None:
        return None
    return {
        **_mean_json(ratios),
        "worst_case": ratios.worst_case._asdict(),
        "by_workload": {workload: _mean_json(own) for workload in ratios.workloads if (own := ratios.of(workload))},
    }


def _name_json(standing: Standing) -> dict[str, Any]:
    return {"contestant": standing.contestant, "choice": standing.choice.value, "n_steps": standing.n_steps}


def _summary_json(report: Report, standing: Standing) -> dict[str, Any]:
    ruins = report.ruins(standing)
    return {
        **_name_json(standing),
        "n_cases": len(standing.outcomes),
        "n_planned": len(report.planned.cases[standing.contestant, standing.n_steps]),
        "to_hindsight": ratios_json(Ratios.between(standing.scores, report.hindsight)),
        "to_picked": ratios_json(Ratios.between(standing.scores, report.picked)),
        "n_ruined": ruins and len(ruins.ruined),
        "search_share": standing.search_share,
        "n_runs": standing.n_runs,
    }


def _stored_json(report: Report, standing: Standing) -> dict[str, Any]:
    steps = steps_to_reference(report, standing)
    return {**_summary_json(report, standing), "steps_to_reference": [_finite(own) for own in steps]}


def _standing_json(report: Report, standing: Standing) -> dict[str, Any]:
    hindsight, picked = report.hindsight, report.picked

    def case_json(outcome: Outcome) -> dict[str, Any]:
        return {
            "workload": outcome.key.workload,
            "seed": outcome.key.seed,
            "lr": outcome.lr,
            "score": _finite(outcome.score),
            "hindsight": _finite(hindsight.get(outcome.case, math.inf)),
            "picked": _finite(picked.get(outcome.case, math.inf)),
        }

    return {**_summary_json(report, standing), "cases": [case_json(outcome) for outcome in standing.outcomes]}


def _lr_sensitivity_json(own: LrSensitivity) -> dict[str, Any]:
    return {
        "contestant": own.contestant,
        "n_steps": own.n_steps,
        "mean": own.mean,
        "standard_error": own.standard_error,
        "by_workload": own.by_workload,
        "cases": [
            {"workload": case.workload, "seed": case.seed, "loss": loss, "share": own.shares[case]}
            for case, loss in own.losses.items()
        ],
    }


def _ruins_json(ruins: Ruins) -> dict[str, Any]:
    def cases(keys: Iterable[RunKey]) -> list[dict[str, Any]]:
        return [{**asdict(key), "ratio": _finite(ruins.ratios[key])} for key in keys]

    (worst,) = cases([ruins.worst])
    return {
        "n_runs": len(ruins.ratios),
        "n_ruined": len(ruins.ruined),
        "worst": worst,
        "cases": cases(ruins.ruined),
    }


def _pairs_json(n_steps: int, pairs: LrPairs) -> dict[str, Any]:
    return {
        "n_steps": n_steps,
        "best_lr": dict(pairs.best),
        "n_without": pairs.n_without,
        "ratio": ratios_json(pairs.over_lrs),
        "by_half_decades_from_best": {str(position): ratios_json(pairs.at(position)) for position in pairs.positions},
        "pairs": [{**asdict(key), "ratio": _finite(ratio)} for key, ratio in pairs.ratios.items()],
    }


def _curve_json(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome.key), "val_steps": outcome.curve.val_steps, "val_losses": outcome.curve.val_losses}


def _run_json(report: Report, key: RunKey) -> dict[str, Any]:
    curve = report.runs[key]
    return {
        **asdict(key),
        "final_val_loss": _finite(curve.final_val_loss),
        "score": _finite(report.scores[key]),
        "diverged": curve.diverged,
        "search_steps": curve.search_steps,
        "peak_lr": curve.peak_lr,
        "wall_s": curve.wall_s,
    }
