"""The report for readers."""

from __future__ import annotations

from benchmarks.quality import length_tables, lr_sensitivity_tables, stored_tables
from benchmarks.quality.comparison import comparison
from benchmarks.quality.measures import Choice
from benchmarks.quality.plan import LONGEST_FULL_SWEEP, OURS, OURS_TO_ZERO, REFERENCE
from benchmarks.quality.report import ALL_OURS, Report
from benchmarks.quality.ruins import RUINED
from benchmarks.quality.tables import count
from benchmarks.quality.training import N_VALIDATIONS
from benchmarks.quality.users_lr import USERS_LR

_NOTES = f"""\
References, both of `{REFERENCE}` decay over the workload's LR grid, with as many steps. `hindsight`: the lowest score,
chosen for each workload and seed by the very runs that it is judged by. `picked`: what the LR gives that has the
lowest mean log score over the other seeds of that workload. A score is the final validation loss; where losses may be
negative, an increasing function of it that is positive. `best of grid` and `picked on other seeds` are chosen likewise
from any contestant's sweep. `median of grid` is the run with the median score, what an LR picked blindly from the grid
gives.

Ratio: score over the reference's of the same case, a workload with a seed. Its mean is that over workloads of the mean
over seeds of its log. Behind ± is the standard error of the mean, relative to it. Workloads are fixed and seeds are
the sample, so that its square is the sum over workloads of (variance over seeds / number of seeds), over the number
of workloads squared. A star: the mean is more than two standard errors away from 1. Without an error: some workload
has one seed only. A diverged run counts as infinitely bad, and so does a mean that has one. Where a reference
diverged, the case has no ratio to it.

`cases`: those that the row rests on, of those planned; those of which runs are missing are left out. `worst`: with
workload and seed. `ruined`: runs that end above {RUINED:g} times the hindsight reference. `search`: share of the steps
that was rolled back. `runs`: training runs that one result takes, at most."""

_PRUNING = f"""\
Above {count(LONGEST_FULL_SWEEP)} steps the sweep of `{REFERENCE}` runs only the LRs that are best with some seed at
{count(LONGEST_FULL_SWEEP)} steps on that workload, and their neighbours on the grid. An LR that is best with some seed
at the longer length gets its neighbours as well, again until the best ones are inside or the grid ends. A pruned sweep
has no median."""

_STORED_NOTES = f"""\
`steps to reference`: median over the cases of the steps, search included, up to the first validation no worse than the
hindsight reference; `-` if half of the cases or more never get there. Schedules validate {N_VALIDATIONS} times a run,
tuners less often, so that theirs come out later; searches between the stages of `autolrs` are counted as if they came
first. `total steps`: steps to reference times runs."""


def as_markdown(report: Report) -> str:
    """All tables, with what they mean."""
    lengths = ", ".join(map(count, report.lengths))
    parts = [
        "# Quality",
        f"Workloads: {', '.join(report.workloads)}. Seeds: {_seeds(report)}. Steps of a run: {lengths}.",
        _incomplete(report),
        _refused(report),
        "## Final score by length",
        _NOTES,
        _PRUNING if report.lengths[-1] > LONGEST_FULL_SWEEP else "",
    ]
    for n_steps in report.lengths:
        found = length_tables.headline_table(report, n_steps) if report.headline(n_steps) else "No complete case yet."
        parts += [f"### {count(n_steps)} steps", found]
    parts += [
        *comparison(report),
        *_ours(report),
        *_ruined(report),
        *_users_lr(report),
        *_lr_sensitivity(report),
        *_by_workload(report),
        *_stored(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _seeds(report: Report) -> str:
    return "/".join(map(str, sorted({part.n_seeds for part in report.plan.parts})))


def _incomplete(report: Report) -> str:
    """What is missing, by length and contestant."""
    lines = []
    for n_steps in report.lengths:
        missing = [
            f"{contestant} {own.n_done}/{own.n_planned}"
            for (contestant, length), own in report.progress.items()
            if length == n_steps and own.n_done < own.n_planned
        ]
        waiting: dict[tuple[str, str], list[str]] = {}
        for entry in report.planned.waiting:
            if entry.n_steps == n_steps:
                waiting.setdefault((entry.contestant, entry.reason), []).append(entry.workload)
        missing += [f"{name} on {', '.join(own)} ({reason})" for (name, reason), own in waiting.items()]
        if missing:
            lines.append(f"- {count(n_steps)} steps: {'; '.join(missing)}")
    return "Incomplete (finished/planned runs, as far as they can be planned):\n\n" + "\n".join(lines) if lines else ""


def _refused(report: Report) -> str:
    lines = dict.fromkeys(
        f"- {entry.contestant}, {count(entry.n_steps)} steps: {entry.reason}" for entry in report.planned.refused
    )
    return "Not run, since refused:\n\n" + "\n".join(lines) if lines else ""


def _ours(report: Report) -> list[str]:
    parts = [
        f"## `{OURS}` over every other contestant",
        f"Score of `{OURS}` over theirs, in the cases that both have.",
        length_tables.against_table(report),
    ]
    if found := length_tables.sensitivity_table(report):
        parts += [
            "## Sensitivity to the LR range and to the optimizer's LR",
            f"Score over that of `{OURS_TO_ZERO}`, whose ending they have.",
            found,
        ]
    return parts


def _ruined(report: Report) -> list[str]:
    parts = ["## Ruined runs", "Of all lengths. Worst: to the hindsight reference.", length_tables.ruin_table(report)]
    ours = report.ruins_by_name.get(ALL_OURS)
    if ours and ours.ruined:
        lines = [
            f"- {ours.ratios[key]:.3f}: {key.workload}, seed {key.seed}, {count(key.n_steps)} steps, {key.contestant}"
            + (f" {key.lr:g}" if key.lr is not None else "")
            for key in ours.ruined
        ]
        parts += [f"Those of `{OURS}`:", "\n".join(lines)]
    return parts


def _users_lr(report: Report) -> list[str]:
    parts = []
    for n_steps in report.lengths:
        if pairs := report.lr_pairs(n_steps):
            parts += [f"### {count(n_steps)} steps", length_tables.users_lr_table(pairs, report.workloads)]
            if pairs.n_without:
                parts.append(f"Left out, since `{REFERENCE}` diverged: {pairs.n_without}.")
    if not parts:
        return []
    notes = (
        f"`{USERS_LR}` over `{REFERENCE}`, both with the same LR, seed and length. The LRs are that with the best mean "
        f"over seeds of `{REFERENCE}` at that length, and its neighbours on the grid."
    )
    return ["## A user's LR", notes, *parts]


def _lr_sensitivity(report: Report) -> list[str]:
    if not report.lr_sensitivities:
        return []
    parts = ["## LR sensitivity", lr_sensitivity_tables.NOTES, lr_sensitivity_tables.by_length_table(report)]
    if report.plan.stored:
        parts += [
            f"At {count(report.plan.main_length)} steps, over the workloads and seeds that schedules were run with:",
            lr_sensitivity_tables.stored_table(report),
        ]
    return parts


def _by_workload(report: Report) -> list[str]:
    parts = ["## By workload"]
    for choice, name in ((Choice.BEST, "hindsight"), (Choice.PICKED, "picked")):
        parts += [f"`{OURS}` to {name}, by length:", length_tables.our_workload_table(report, choice)]
    for n_steps in filter(report.headline, report.lengths):
        parts += [f"All to hindsight, {count(n_steps)} steps:", length_tables.workload_table(report, n_steps)]
    caption = f"Peak LRs: best of `{REFERENCE}` / chosen by `{OURS}`, medians over seeds."
    return [*parts, "## LRs", caption, length_tables.lr_table(report)]


def _stored(report: Report) -> list[str]:
    if not report.plan.stored:
        return []
    return [
        f"## All contestants at {count(report.plan.main_length)} steps",
        "Over the workloads and seeds that all of them have.",
        stored_tables.stored_table(report),
        _STORED_NOTES,
        "To hindsight, by workload: geometric mean over seeds (lowest..highest).",
        stored_tables.stored_workload_table(report),
        "### Ablations",
        "Score over that of the plain policy with the same ending.",
        stored_tables.ablation_table(report),
    ]
