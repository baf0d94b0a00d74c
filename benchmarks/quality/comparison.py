"""Every system against ours and the best linear decay, over the same cases, and what each asks for."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.quality.measures import Choice, Standing
from benchmarks.quality.plan import OURS
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.report import Report
from benchmarks.quality.ruins import Ruins
from benchmarks.quality.systems import SYSTEMS, System
from benchmarks.quality.tables import NOTHING, mean, ruined, table, worst

NOTES = f"""\
One row a system, all over the same workloads and seeds. Of a sweep, which has linear decay's best LR and its neighbours
on the grid at least, there are two rows: `best of grid` is chosen with hindsight, `picked on other seeds` without.

`cases`: workloads with a seed at each length; most have three seeds of seven workloads, and those with fewer say so.
`steps`: mean ratio to the best linear decay of the grid in hindsight at that length, with its standard error, and a
star where it is more than two of them away from 1. `{OURS} over it`: the same of `{OURS}` to that system, in the cases
that both have; below 1 `{OURS}` is better. `worst` and `ruined`: to hindsight, over both lengths. `extra steps`: share
of a run's steps that a search spent, or that were rolled back; nobody gets any for free. `LR`: what its user has to
know of it. `end`: whether it has to know the length of the run. `copies`: of the weights, beside those of the model and
of the optimizer that it wraps or replaces; a snapshot for going back counts, and has the optimizer's state as well.
`second job`: after one job of the same family with another seed, whose steps are not counted."""
SOURCES = "Where each comes from, and how it is tried here:"


@dataclass(frozen=True)
class Row:
    """A system with one choice of its LR: its standings by length; there is at least one."""

    system: System
    standings: dict[int, Standing]

    @property
    def name(self) -> str:
        return next(iter(self.standings.values())).name

    @property
    def extra_steps(self) -> float:
        """Mean over lengths of the share of steps that a search took."""
        return statistics.fmean(standing.search_share for standing in self.standings.values())

    def ratios(self, report: Report, n_steps: int) -> Ratios | None:
        """The ratios to the hindsight reference, at one length."""
        standing = self.standings.get(n_steps)
        return Ratios.between(standing.scores, report.hindsight) if standing else None

    def ruins(self, report: Report) -> Ruins | None:
        """Among the runs of all lengths."""
        keys = [outcome.key for standing in self.standings.values() for outcome in standing.outcomes]
        return Ruins.among(keys, report.scores, report.hindsight)


def rows(report: Report) -> list[Row]:
    """A row for every system and choice but the median, best first at the main length; those without it come last."""
    found: dict[tuple[str, Choice], Row] = {}
    systems = {system.contestant: system for system in SYSTEMS}
    for n_steps in sorted(report.plan.stored_lengths, key=lambda n: n != report.plan.main_length):
        cases = report.plan.stored_cases(n_steps)
        standings = [s.within(cases) for s in report.standings if s.n_steps == n_steps and s.contestant in systems]
        for standing in report.ranked(standing for standing in standings if standing):
            if standing.choice is not Choice.MEDIAN:
                row = Row(systems[standing.contestant], {})
                found.setdefault((standing.contestant, standing.choice), row).standings[n_steps] = standing
    return list(found.values())


def comparison_table(report: Report) -> str:
    """How every system ends, beside ours, and what it costs."""
    lengths = report.plan.stored_lengths
    lines = []
    for row in rows(report):
        over = [row.standings.get(n_steps) for n_steps in lengths]
        ruins = row.ruins(report)
        found = [own for n_steps in lengths if (own := row.ratios(report, n_steps))]
        lines.append(
            [
                row.name,
                "/".join(str(len(own.outcomes)) if own else "0" for own in over),
                *(mean(row.ratios(report, n_steps)) for n_steps in lengths),
                worst(max(found, key=lambda own: own.worst)) if found else NOTHING,
                ruined(ruins),
                *(mean(report.ours_over(own)) if own else NOTHING for own in over),
                f"{row.extra_steps:.0%}",
                row.system.lr.value,
                "yes" if row.system.knows_end else "no",
                row.system.copies,
            ]
        )
    steps = [f"{n_steps:,} steps" for n_steps in lengths]
    ours = [f"`{OURS}` over it, {n_steps:,}" for n_steps in lengths]
    header = ["system", "cases", *steps, "worst", "ruined", *ours, "extra steps", "LR", "end", "copies"]
    return table(header, lines)


def source_table() -> str:
    """Where every system comes from, and how it is tried."""
    return table(("system", "here", "source"), [(own.contestant, own.here, own.source) for own in SYSTEMS])


def comparison(report: Report) -> list[str]:
    """The part of the report; empty without stored runs."""
    if not report.plan.stored:
        return []
    return ["## Published systems", NOTES, comparison_table(report), SOURCES, source_table()]
