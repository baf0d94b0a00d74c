"""What is measured on the finished runs.

A *case* is a workload with a seed. The *reference* of a case is the lowest final validation loss of linear decay over
the workload's LR grid, with that seed and as many steps. The *ratio* of a run is its final validation loss over the
reference of its case; below 1 is better than the best linear decay of the grid, and a diverged run's is infinite.

Only a complete LR grid has a best and a median: a case of which runs are missing is left out, and every measure says
on how many cases it rests.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve

REFERENCE = "linear"


class Case(NamedTuple):
    workload: str
    seed: int


class Choice(StrEnum):
    """Which run of an LR grid stands for it; `ONLY` for contestants that take no LR."""

    BEST = "best of grid"
    MEDIAN = "median of grid"
    ONLY = "own"


@dataclass(frozen=True)
class Outcome:
    """The run that stands for a contestant in one case.

    Attributes:
        key: The run.
        curve: How it went.
        n_runs: Runs that it takes to have this one: the size of the grid for the best of a grid, otherwise 1.
        reference: Loss of the reference.
    """

    key: RunKey
    curve: Curve
    n_runs: int
    reference: float

    @property
    def case(self) -> Case:
        return Case(self.key.workload, self.key.seed)

    @property
    def lr(self) -> float | None:
        """The LR that it was given, or the peak LR that it chose."""
        return self.curve.peak_lr if self.key.lr is None else self.key.lr

    @property
    def steps_to_reference(self) -> float:
        """Steps, search included, up to the first validation no worse than the reference; infinity if there is none.

        With as many runs as it takes advanced side by side, `n_runs` times as many are made in all.
        """
        for step, loss in zip(self.curve.val_steps, self.curve.val_losses, strict=True):
            if loss <= self.reference:
                return step
        return self.key.n_steps if self.curve.final_val_loss <= self.reference else math.inf


@dataclass(frozen=True)
class Ratios:
    """Ratios of losses by case, of one case at least.

    Geometric means, since ratios are compared; infinite when a run among them diverged.
    """

    by_case: Mapping[Case, float]

    @property
    def n_diverged(self) -> int:
        return sum(map(math.isinf, self.by_case.values()))

    @property
    def mean(self) -> float:
        if self.n_diverged:
            return math.inf
        return math.exp(statistics.fmean(map(math.log, self.by_case.values())))

    @property
    def worst_case(self) -> Case:
        return max(self.by_case, key=self.by_case.__getitem__)

    @property
    def best(self) -> float:
        return min(self.by_case.values())

    @property
    def worst(self) -> float:
        return max(self.by_case.values())

    @property
    def workloads(self) -> list[str]:
        return list(dict.fromkeys(case.workload for case in self.by_case))

    def of(self, workload: str) -> Ratios:
        """Those of one workload."""
        return Ratios({case: ratio for case, ratio in self.by_case.items() if case.workload == workload})

    def seed_range(self) -> tuple[float, float] | None:
        """Lowest and highest mean of a seed, over the workloads that all seeds have; None with fewer than two seeds."""
        seeds = {case.seed for case in self.by_case}
        shared = [w for w in self.workloads if all(Case(w, seed) in self.by_case for seed in seeds)]
        if len(seeds) < 2 or not shared:
            return None
        means = [Ratios({Case(w, s): self.by_case[Case(w, s)] for w in shared}).mean for s in seeds]
        return min(means), max(means)


@dataclass(frozen=True)
class Standing:
    """How a contestant did over all its complete cases; there is at least one."""

    contestant: str
    choice: Choice
    outcomes: tuple[Outcome, ...]
    n_planned: int

    @property
    def name(self) -> str:
        return self.contestant if self.choice is Choice.ONLY else f"{self.contestant}, {self.choice}"

    @property
    def ratios(self) -> Ratios:
        return Ratios({o.case: o.curve.final_val_loss / o.reference for o in self.outcomes})

    @property
    def n_runs(self) -> int:
        """Runs that one result takes."""
        return max(outcome.n_runs for outcome in self.outcomes)

    @property
    def search_share(self) -> float:
        """Mean share of the steps that was rolled back."""
        return statistics.fmean(o.curve.search_steps / o.key.n_steps for o in self.outcomes)

    @property
    def n_reached(self) -> int:
        """Cases in which the reference's loss was reached."""
        return sum(math.isfinite(outcome.steps_to_reference) for outcome in self.outcomes)

    @property
    def steps_to_reference(self) -> float:
        """Median over the cases, infinity where half of them or more never get there."""
        return statistics.median(outcome.steps_to_reference for outcome in self.outcomes)

    def relative_to(self, base: Standing) -> Ratios | None:
        """Final losses over those of `base`, in the cases that both have and in which `base` did not diverge.

        None if there are no such cases.
        """
        losses = {o.case: o.curve.final_val_loss for o in base.outcomes if not o.curve.diverged}
        by_case = {o.case: o.curve.final_val_loss / losses[o.case] for o in self.outcomes if o.case in losses}
        return Ratios(by_case) if by_case else None


Cell = dict[RunKey, Curve]
"""The runs of one contestant in one case."""


def complete_cells(planned: Iterable[RunKey], runs: Mapping[RunKey, Curve]) -> dict[str, dict[Case, Cell]]:
    """Finished runs by contestant and case, without the cases of which a planned run is missing."""
    keys: dict[str, dict[Case, list[RunKey]]] = defaultdict(lambda: defaultdict(list))
    for key in planned:
        keys[key.contestant][Case(key.workload, key.seed)].append(key)
    return {
        contestant: {
            case: {key: runs[key] for key in own} for case, own in cases.items() if all(key in runs for key in own)
        }
        for contestant, cases in keys.items()
    }


def _chosen(cell: Cell, choice: Choice) -> RunKey:
    """The run that stands for a grid; of an even number the worse of the two medians, as both are runs."""
    ranked = sorted(cell, key=lambda key: cell[key].final_val_loss)
    return ranked[len(ranked) // 2 if choice is Choice.MEDIAN else 0]


def _choices(cells: Collection[Cell]) -> tuple[Choice, ...]:
    takes_lr = any(key.lr is not None for cell in cells for key in cell)
    return (Choice.BEST, Choice.MEDIAN) if takes_lr else (Choice.ONLY,)


def standings(planned: Sequence[RunKey], runs: Mapping[RunKey, Curve]) -> list[Standing]:
    """All standings that rest on at least one case, lowest mean ratio first.

    Cases without a finite reference are left out.
    """
    cells = complete_cells(planned, runs)
    references = {
        case: min(curve.final_val_loss for curve in cell.values()) for case, cell in cells.get(REFERENCE, {}).items()
    }
    n_planned = len({(key.workload, key.seed) for key in planned})
    found = []
    for contestant, cases in cells.items():
        for choice in _choices(cases.values()):
            outcomes = []
            for case, cell in cases.items():
                if math.isfinite(references.get(case, math.inf)):
                    key = _chosen(cell, choice)
                    n_runs = len(cell) if choice is Choice.BEST else 1
                    outcomes.append(Outcome(key, cell[key], n_runs, references[case]))
            if outcomes:
                found.append(Standing(contestant, choice, tuple(outcomes), n_planned))
    return sorted(found, key=lambda standing: standing.ratios.mean)


class Progress(NamedTuple):
    n_done: int
    n_planned: int


def progress(planned: Iterable[RunKey], runs: Collection[RunKey]) -> dict[str, Progress]:
    """Finished and planned runs of every contestant."""
    counts: dict[str, Progress] = {}
    for key in planned:
        n_done, n_planned = counts.get(key.contestant, Progress(0, 0))
        counts[key.contestant] = Progress(n_done + (key in runs), n_planned + 1)
    return counts
