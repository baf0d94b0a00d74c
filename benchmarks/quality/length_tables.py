"""Tables of what was run at several lengths."""

from __future__ import annotations

import statistics

from benchmarks.quality.lr_pairs import LrPairs
from benchmarks.quality.measures import Choice, Standing
from benchmarks.quality.plan import OURS, REFERENCE, SENSITIVITY
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.report import Report
from benchmarks.quality.tables import NOTHING, count, mean, number, ruined, table, worst


def headline_table(report: Report, n_steps: int) -> str:
    """Every contestant at one length against both references."""
    rows = []
    hindsight, picked = report.hindsight, report.picked
    for standing in report.headline(n_steps):
        ratios = Ratios.between(standing.scores, hindsight)
        n_planned = len(report.planned.cases[standing.contestant, n_steps])
        rows.append(
            (
                standing.name,
                f"{len(standing.outcomes)}/{n_planned}",
                mean(ratios),
                mean(Ratios.between(standing.scores, picked)),
                worst(ratios),
                ruined(report.ruins(standing)),
                f"{standing.search_share:.1%}",
                str(standing.n_runs),
            )
        )
    header = "contestant, cases, to hindsight, to picked, worst to hindsight, ruined, search, runs"
    return table(header.split(", "), rows)


def workload_table(report: Report, n_steps: int) -> str:
    """Every contestant at one length by workload."""
    hindsight = report.hindsight
    rows = []
    for standing in report.headline(n_steps):
        ratios = Ratios.between(standing.scores, hindsight)
        own = [ratios.of(workload) if ratios else None for workload in report.workloads]
        rows.append([standing.name, *(number(cell.mean) if cell else NOTHING for cell in own)])
    return table(["contestant", *report.workloads], rows)


def our_workload_table(report: Report, choice: Choice) -> str:
    """Our policy by workload and length, against one of the references."""
    reference = report.hindsight if choice is Choice.BEST else report.picked

    def ratios(n_steps: int) -> Ratios | None:
        ours = report.standing(OURS, n_steps)
        return Ratios.between(ours.scores, reference) if ours else None

    found = {n_steps: ratios(n_steps) for n_steps in report.lengths}
    rows = [[w, *(mean(own.of(w) if own else None) for own in found.values())] for w in report.workloads]
    rows.append(["all", *map(mean, found.values())])
    rows.append(["worst", *map(worst, found.values())])
    return table(["workload", *(f"{n_steps:,}" for n_steps in found)], rows)


def lr_table(report: Report) -> str:
    """The best LR of the reference's sweep and the peak LR that ours chose: medians over seeds."""

    def cell(workload: str, n_steps: int) -> str:
        best = _median_lr(report.standing(REFERENCE, n_steps, Choice.BEST), workload)
        return f"{best} / {_median_lr(report.standing(OURS, n_steps), workload)}"

    rows = [[w, *(cell(w, n_steps) for n_steps in report.lengths)] for w in report.workloads]
    return table(["workload", *(f"{n_steps:,}" for n_steps in report.lengths)], rows)


def _median_lr(standing: Standing | None, workload: str) -> str:
    outcomes = standing.outcomes if standing else ()
    lrs = [o.lr for o in outcomes if o.key.workload == workload and o.lr is not None]
    return f"{statistics.median_high(lrs):.2g}" if lrs else NOTHING


def against_table(report: Report) -> str:
    """Our policy over every other contestant, by length."""
    names: dict[tuple[str, Choice], str] = {}
    for n_steps in report.lengths:
        for standing in report.headline(n_steps):
            if standing.contestant not in (OURS, *SENSITIVITY):
                names[standing.contestant, standing.choice] = standing.name

    def cell(contestant: str, choice: Choice, n_steps: int) -> str:
        standing = report.standing(contestant, n_steps, choice)
        return mean(report.ours_over(standing) if standing else None)

    rows = [[name, *(cell(*key, n_steps) for n_steps in report.lengths)] for key, name in names.items()]
    return table(["over", *(f"{n_steps:,}" for n_steps in report.lengths)], rows)


def sensitivity_table(report: Report) -> str | None:
    """Our policy with another range or LR over the plain one; None where there is none."""
    lengths = [n for n in report.lengths if any(report.standing(name, n) for name in SENSITIVITY)]
    rows = []
    for name in SENSITIVITY:
        found = [report.over_ours(name, n_steps) for n_steps in lengths]
        if any(found):
            rows.append([name, *(cell for own in found for cell in (mean(own), worst(own)))])
    header = ["variant", *(cell for n in lengths for cell in (f"{n:,}", f"worst, {n:,}"))]
    return table(header, rows) if rows else None


def ruin_table(report: Report) -> str:
    """Ruined runs of every contestant over all lengths, and of our policy in all."""
    rows = []
    for name, ruins in report.ruins_by_name.items():
        key = ruins.worst
        case = f"{key.workload}, seed {key.seed}, {count(key.n_steps)} steps"
        rows.append((name, str(len(ruins.ratios)), str(len(ruins.ruined)), number(ruins.ratios[key]), case))
    return table(("contestant", "runs", "ruined", "worst", "in"), rows)


def users_lr_table(pairs: LrPairs, workloads: list[str]) -> str:
    """Our policy with tuned LRs over linear decay with the same, by workload."""
    by_position = [(position, pairs.at(position)) for position in pairs.positions]
    over_lrs = pairs.over_lrs
    rows = []
    for workload in workloads:
        own = {key: ratio for key, ratio in pairs.ratios.items() if key.workload == workload}
        if own:
            worst_key = max(own, key=own.__getitem__)
            cells = [mean(ratios.of(workload) if ratios else None) for _, ratios in by_position]
            lr = f"{pairs.best[workload]:g}"
            rows.append(
                [workload, lr, *cells, mean(over_lrs.of(workload)), f"{number(own[worst_key])} (LR {worst_key.lr:g})"]
            )
    worst_of_all = f"{number(pairs.ratios[pairs.worst])} ({pairs.worst.workload}, LR {pairs.worst.lr:g})"
    rows.append(["all", "", *(mean(ratios) for _, ratios in by_position), mean(over_lrs), worst_of_all])
    header = ["workload", "best LR", *(_position(position) for position, _ in by_position), "all three", "worst"]
    return table(header, rows)


def _position(half_decades: int) -> str:
    if half_decades == 0:
        return "with it"
    return f"{'x' if half_decades > 0 else '/'}{10 ** (abs(half_decades) / 2):.2g}"
