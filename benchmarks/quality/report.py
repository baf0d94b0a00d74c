"""The report on the finished runs, for machines (JSON) and for readers (Markdown)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.quality.measures import REFERENCE, Choice, Progress, Ratios, Standing, progress, standings
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import N_VALIDATIONS, Curve
from benchmarks.quality.tuners import VARIANTS

OURS = "budget"

_NOTES = f"""\
Reference: for each workload and seed the lowest final validation loss of `{REFERENCE}` decay over the workload's LR
grid, at as many steps. Ratio: final validation loss over it; means are geometric. `best of grid`: the LR with the
lowest final validation loss, chosen for each workload and seed. `median of grid`: the run with the median of those
losses, what an LR picked blindly from the grid gives. `seeds`: lowest and highest mean of a seed, over the workloads
that all seeds have. A diverged run counts as infinitely bad, and so does a mean that has one. `cases`: pairs of
workload and seed that the row rests on, of those planned; those of which runs are missing are left out.

`steps to reference`: median over the cases of the steps, search included, up to the first validation no worse than
the reference; `-` if half of the cases or more never get there. Schedules validate {N_VALIDATIONS} times a run, tuners
less often, so that theirs come out later; searches between the stages of `autolrs` are counted as if they came first.
`runs`: training runs that one result takes. `total steps`: steps to reference times runs.
"""


@dataclass(frozen=True)
class Report:
    """All that is reported.

    Attributes:
        planned: Every run that should be there.
        runs: Those that are.
        standings: Contestants by mean ratio, lowest first.
        progress: Finished and planned runs of every contestant.
    """

    planned: Sequence[RunKey]
    runs: Mapping[RunKey, Curve]
    standings: Sequence[Standing]
    progress: Mapping[str, Progress]

    @property
    def workloads(self) -> list[str]:
        return list(dict.fromkeys(key.workload for key in self.planned))

    def standing(self, contestant: str, choice: Choice = Choice.ONLY) -> Standing | None:
        found = (s for s in self.standings if (s.contestant, s.choice) == (contestant, choice))
        return next(found, None)

    def variants(self, *, of_range: bool) -> list[tuple[Standing, Standing]]:
        """Variants of a policy, each with the plain policy: those of the LR range, or those of the options."""
        pairs = []
        for name, variant in VARIANTS.items():
            standing, base = self.standing(name), self.standing(variant.policy)
            moved = (variant.low, variant.high) != (1.0, 1.0)
            if standing and base and name != variant.policy and moved is of_range:
                pairs.append((standing, base))
        return pairs

    @property
    def headline(self) -> list[Standing]:
        """Standings of all but the variants."""
        return [
            s for s in self.standings if s.contestant not in VARIANTS or VARIANTS[s.contestant].policy == s.contestant
        ]


def make_report(planned: Sequence[RunKey], runs: Mapping[RunKey, Curve]) -> Report:
    """The report on those of `runs` that are planned."""
    wanted = {key: runs[key] for key in planned if key in runs}
    return Report(planned, wanted, standings(planned, wanted), progress(planned, wanted))


def as_json(report: Report) -> dict[str, Any]:
    """Everything as JSON values; what is infinite is null, with the number of diverged runs beside it."""
    return {
        "reference": f"lowest final validation loss of {REFERENCE} over the LR grid, by workload and seed",
        "n_steps": sorted({key.n_steps for key in report.planned}),
        "workloads": report.workloads,
        "seeds": sorted({key.seed for key in report.planned}),
        "progress": {name: own._asdict() for name, own in report.progress.items()},
        "standings": [_standing_json(standing) for standing in report.standings],
        "sensitivity": [_variant_json(*pair) for pair in report.variants(of_range=True)],
        "ablations": [_variant_json(*pair) for pair in report.variants(of_range=False)],
        "runs": [_run_json(key, curve) for key, curve in report.runs.items()],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ratios_json(ratios: Ratios) -> dict[str, Any]:
    seeds = ratios.seed_range()
    return {
        "n_cases": len(ratios.by_case),
        "n_diverged": ratios.n_diverged,
        "mean": _finite(ratios.mean),
        "worst": _finite(ratios.worst),
        "worst_case": ratios.worst_case._asdict(),
        "seed_range": seeds and [_finite(end) for end in seeds],
        "by_workload": {
            workload: {
                "mean": _finite(own.mean),
                "range": [_finite(own.best), _finite(own.worst)],
                "n_cases": len(own.by_case),
                "n_diverged": own.n_diverged,
            }
            for workload in ratios.workloads
            for own in [ratios.of(workload)]
        },
    }


def _standing_json(standing: Standing) -> dict[str, Any]:
    return {
        "contestant": standing.contestant,
        "choice": standing.choice.value,
        "n_planned": standing.n_planned,
        "ratio": _ratios_json(standing.ratios),
        "steps_to_reference": _finite(standing.steps_to_reference),
        "n_reached": standing.n_reached,
        "search_share": standing.search_share,
        "n_runs": standing.n_runs,
        "total_steps": _finite(standing.steps_to_reference * standing.n_runs),
        "cases": [
            {
                **outcome.case._asdict(),
                "lr": outcome.lr,
                "final_val_loss": _finite(outcome.curve.final_val_loss),
                "reference": outcome.reference,
                "ratio": _finite(outcome.curve.final_val_loss / outcome.reference),
                "steps_to_reference": _finite(outcome.steps_to_reference),
            }
            for outcome in standing.outcomes
        ],
    }


def _variant_json(standing: Standing, base: Standing) -> dict[str, Any]:
    ratios = standing.relative_to(base)
    return {"contestant": standing.contestant, "base": base.contestant, "ratio": ratios and _ratios_json(ratios)}


def _run_json(key: RunKey, curve: Curve) -> dict[str, Any]:
    return {
        **asdict(key),
        "final_val_loss": _finite(curve.final_val_loss),
        "diverged": curve.diverged,
        "search_steps": curve.search_steps,
        "peak_lr": curve.peak_lr,
        "wall_s": curve.wall_s,
    }


def as_markdown(report: Report) -> str:
    """All tables, with what they mean."""
    n_steps = "/".join(f"{n:,}" for n in sorted({key.n_steps for key in report.planned}))
    seeds = len({key.seed for key in report.planned})
    parts = [
        "# Quality",
        f"Workloads: {', '.join(report.workloads)}. Seeds: {seeds}. Steps of a run: {n_steps}.",
        _incomplete(report),
        "## Final loss relative to the best linear decay",
        _headline_table(report),
        _NOTES.rstrip(),
        "## By workload",
        "Geometric mean of the ratio over seeds (lowest..highest).",
        _workload_table(report),
        "## LRs",
        "Median over seeds (lowest..highest).",
        _lr_table(report),
    ]
    for title, of_range in (("Sensitivity to the LR range", True), ("Ablations", False)):
        if pairs := report.variants(of_range=of_range):
            parts += [f"## {title}", "Final loss over that of the plain policy.", _variant_table(pairs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _incomplete(report: Report) -> str:
    missing = [
        f"{name} {own.n_done}/{own.n_planned}" for name, own in report.progress.items() if own.n_done < own.n_planned
    ]
    return f"Incomplete (finished/planned runs): {', '.join(missing)}." if missing else ""


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "∞"


def _mean(ratios: Ratios) -> str:
    return _number(ratios.mean) + (f" ({ratios.n_diverged} diverged)" if ratios.n_diverged else "")


def _range(ends: tuple[float, float] | None) -> str:
    return f"{_number(ends[0])}..{_number(ends[1])}" if ends else "-"


def _worst(ratios: Ratios) -> str:
    return f"{_number(ratios.worst)} ({ratios.worst_case.workload})"


def _steps(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def _headline_table(report: Report) -> str:
    header = "contestant, cases, ratio, seeds, worst, steps to reference, reached, search, runs, total steps"
    rows = []
    for standing in report.headline:
        ratios, n_cases = standing.ratios, len(standing.outcomes)
        rows.append(
            (
                standing.name,
                f"{n_cases}/{standing.n_planned}",
                _mean(ratios),
                _range(ratios.seed_range()),
                _worst(ratios),
                _steps(standing.steps_to_reference),
                f"{standing.n_reached}/{n_cases}",
                f"{standing.search_share:.1%}",
                str(standing.n_runs),
                _steps(standing.steps_to_reference * standing.n_runs),
            )
        )
    return _table(header.split(", "), rows)


def _workload_table(report: Report) -> str:
    rows = []
    for standing in report.headline:
        if standing.choice is not Choice.MEDIAN:
            rows.append([standing.name, *(_workload_cell(standing.ratios, w) for w in report.workloads)])
    return _table(["contestant", *report.workloads], rows)


def _workload_cell(ratios: Ratios, workload: str) -> str:
    if workload not in ratios.workloads:
        return "-"
    own = ratios.of(workload)
    spread = f" ({_range((own.best, own.worst))})" if len(own.by_case) > 1 else ""
    return _number(own.mean) + spread


def _lr_table(report: Report) -> str:
    """The best LR of the reference's grid beside the peak LR that ours chose."""
    reference, ours = report.standing(REFERENCE, Choice.BEST), report.standing(OURS)
    rows = [(workload, _lrs(reference, workload), _lrs(ours, workload)) for workload in report.workloads]
    return _table(["workload", f"best of {REFERENCE}", f"chosen by {OURS}"], rows)


def _lrs(standing: Standing | None, workload: str) -> str:
    outcomes = standing.outcomes if standing else ()
    lrs = sorted(o.lr for o in outcomes if o.key.workload == workload and o.lr is not None)
    return f"{lrs[len(lrs) // 2]:.2g} ({lrs[0]:.2g}..{lrs[-1]:.2g})" if lrs else "-"


def _variant_table(pairs: Sequence[tuple[Standing, Standing]]) -> str:
    rows = []
    for standing, base in pairs:
        if ratios := standing.relative_to(base):
            cases = f"{len(ratios.by_case)}/{standing.n_planned}"
            rows.append(
                (
                    standing.contestant,
                    base.contestant,
                    cases,
                    _mean(ratios),
                    _range(ratios.seed_range()),
                    _worst(ratios),
                    _mean(standing.ratios),
                )
            )
    return _table(["variant", "relative to", "cases", "ratio", "seeds", "worst", "ratio to reference"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well as plain text; all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])
