"""What is measured on the finished runs.

A *case* is a workload with a seed and a number of steps. Runs are compared by scores (`benchmarks.quality.scores`).
Of linear decay over the LRs of a case there are two *references*:

- *hindsight*: the lowest score. No sweep can know it: the very run that is judged chose it, so that luck favours it.
- *picked on other seeds*: the score with the LR that has the lowest mean log score over the other seeds of that
  workload and length. This is what a sweep gives to whoever trains again afterwards.

A *ratio* is a score over another one of the same case; below 1 is better, and a diverged run's is infinite.

Only a complete sweep has a best and a median: a case of which runs are missing is left out, and every measure says on
how many cases it rests.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple, Self

from benchmarks.quality.cases import Case
from benchmarks.quality.results import RunKey
from benchmarks.quality.sweeps import Sweep
from benchmarks.quality.training import Curve
from benchmarks.quality.users_lr import USERS_LR


class Choice(StrEnum):
    """Which run of a sweep stands for it; `ONLY` for contestants that take no LR."""

    BEST = "best of grid"
    PICKED = "picked on other seeds"
    MEDIAN = "median of grid"
    ONLY = "own"


@dataclass(frozen=True)
class Outcome:
    """The run that stands for a contestant in one case.

    Attributes:
        key: The run.
        curve: How it went.
        score: What it is compared by.
        n_runs: Runs that it takes to have this one: the size of the sweep for the best of it, otherwise 1.
    """

    key: RunKey
    curve: Curve
    score: float
    n_runs: int

    @property
    def case(self) -> Case:
        return Case.of(self.key)

    @property
    def lr(self) -> float | None:
        """The LR that it was given, or the peak LR that it chose."""
        return self.curve.peak_lr if self.key.lr is None else self.key.lr

    def steps_to(self, loss: float) -> float:
        """Steps, search included, up to the first validation loss of `loss` at most; infinity if there is none.

        With as many runs as it takes advanced side by side, `n_runs` times as many are made in all.
        """
        for step, val_loss in zip(self.curve.val_steps, self.curve.val_losses, strict=True):
            if val_loss <= loss:
                return step
        return self.key.n_steps if self.curve.final_val_loss <= loss else math.inf


@dataclass(frozen=True)
class Standing:
    """How a contestant did at one length, over all its complete cases; there is at least one."""

    contestant: str
    choice: Choice
    n_steps: int
    outcomes: tuple[Outcome, ...]

    @property
    def name(self) -> str:
        return self.contestant if self.choice is Choice.ONLY else f"{self.contestant}, {self.choice}"

    @property
    def scores(self) -> dict[Case, float]:
        return {outcome.case: outcome.score for outcome in self.outcomes}

    @property
    def n_runs(self) -> int:
        """Runs that one result takes, at most."""
        return max(outcome.n_runs for outcome in self.outcomes)

    @property
    def search_share(self) -> float:
        """Mean share of the steps that was rolled back."""
        return statistics.fmean(o.curve.search_steps / o.key.n_steps for o in self.outcomes)

    def within(self, cases: Collection[Case]) -> Self | None:
        """The same over `cases` only; None if it has none of them."""
        own = tuple(outcome for outcome in self.outcomes if outcome.case in cases)
        return replace(self, outcomes=own) if own else None


Cell = Mapping[RunKey, float]
"""The scores of one contestant's runs in one case."""


def complete_cells(keys: Iterable[RunKey], scores: Mapping[RunKey, float]) -> dict[tuple[str, int], dict[Case, Cell]]:
    """Scores by contestant and length, and by case, without the cases of which a planned run is missing."""
    planned: dict[tuple[str, int], dict[Case, list[RunKey]]] = defaultdict(lambda: defaultdict(list))
    for key in keys:
        planned[key.contestant, key.n_steps][Case.of(key)].append(key)
    return {
        block: {
            case: {key: scores[key] for key in own} for case, own in cases.items() if all(key in scores for key in own)
        }
        for block, cases in planned.items()
    }


def _sweep_key(cell: Cell, choice: Choice) -> RunKey:
    """The run that stands for a sweep; of an even number the worse of the two medians, as both are runs."""
    ranked = sorted(cell, key=cell.__getitem__)
    return ranked[len(ranked) // 2 if choice is Choice.MEDIAN else 0]


def _picked_keys(cells: Mapping[Case, Cell]) -> dict[Case, RunKey]:
    """The run of every case with the LR that was picked on the other seeds of its workload."""
    by_workload: dict[str, dict[int, dict[float, RunKey]]] = defaultdict(dict)
    for case, cell in cells.items():
        by_workload[case.workload][case.seed] = {key.lr: key for key in cell if key.lr is not None}
    keys = {}
    for seeds in by_workload.values():
        scores = {s: {lr: cells[Case.of(key)][key] for lr, key in own.items()} for s, own in seeds.items()}
        for seed, lr in Sweep(scores).picks().items():
            key = seeds[seed][lr]
            keys[Case.of(key)] = key
    return keys


def _chosen(cells: Mapping[Case, Cell], is_pruned: bool) -> dict[Choice, dict[Case, RunKey]]:
    """The run that stands for every case, by choice.

    The median of a pruned sweep says nothing of an LR picked blindly, so that there is none.
    """
    if any(key.lr is None for cell in cells.values() for key in cell):
        return {Choice.ONLY: {case: key for case, cell in cells.items() for key in cell}}
    choices = [Choice.BEST] if is_pruned else [Choice.BEST, Choice.MEDIAN]
    chosen = {choice: {case: _sweep_key(cell, choice) for case, cell in cells.items()} for choice in choices}
    return chosen | {Choice.PICKED: _picked_keys(cells)}


def standings(
    keys: Iterable[RunKey],
    runs: Mapping[RunKey, Curve],
    scores: Mapping[RunKey, float],
    pruned: Collection[tuple[str, int]] = (),
) -> list[Standing]:
    """All standings that rest on at least one case; `pruned` are contestants and lengths with a part of the grid only.

    None of contestants that carry a user's LR: theirs are measures of their own (`benchmarks.quality.lr_pairs`).
    """
    found = []
    for (contestant, n_steps), cells in complete_cells(keys, scores).items():
        if contestant == USERS_LR:
            continue
        for choice, chosen in _chosen(cells, (contestant, n_steps) in pruned).items():
            outcomes = tuple(
                Outcome(key, runs[key], scores[key], len(cells[case]) if choice is Choice.BEST else 1)
                for case, key in chosen.items()
            )
            if outcomes:
                found.append(Standing(contestant, choice, n_steps, outcomes))
    return found


class Progress(NamedTuple):
    n_done: int
    n_planned: int


def progress(keys: Iterable[RunKey], runs: Collection[RunKey]) -> dict[tuple[str, int], Progress]:
    """Finished and planned runs by contestant and length."""
    counts: dict[tuple[str, int], Progress] = {}
    for key in keys:
        block = key.contestant, key.n_steps
        n_done, n_planned = counts.get(block, Progress(0, 0))
        counts[block] = Progress(n_done + (key in runs), n_planned + 1)
    return counts
