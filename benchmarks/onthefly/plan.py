"""Which runs are made.

The LRs of an oracle follow from finished runs of linear decay up to the change, so that a plan is made in rounds: what
can be planned is run, then it is planned again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from benchmarks.onthefly.contestants import CONTESTANTS
from benchmarks.onthefly.scenarios import Scenario
from benchmarks.onthefly.shapes import SCHEDULES
from benchmarks.onthefly.workloads import WORKLOADS, ChangingWorkload
from benchmarks.quality.results import RunKey
from benchmarks.quality.scores import ScoreFunction
from benchmarks.quality.sweeps import Sweep

FIRST = "linear"
"""The schedule before the change of contestants that have an LR of their own there."""


@dataclass
class Round:
    """What can be planned after some runs.

    Attributes:
        keys: All runs, seed by seed and then contestant by contestant.
        first_lrs: The LR before the change, of runs that have one.
        by_scenario: The runs of each scenario.
        n_waiting: Sweeps that follow from runs that are not there yet, by scenario and contestant.
    """

    keys: dict[RunKey, None] = field(default_factory=dict)
    first_lrs: dict[RunKey, float] = field(default_factory=dict)
    by_scenario: dict[str, dict[RunKey, None]] = field(default_factory=dict)
    n_waiting: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All that is to be run.

    Attributes:
        scenarios: What happens.
        n_steps: The optimizer steps of the longest runs.
        n_seeds: Seeds 0 to `n_seeds` - 1 run.
    """

    scenarios: tuple[Scenario, ...]
    n_steps: int
    n_seeds: int

    @property
    def score_functions(self) -> dict[str, ScoreFunction]:
        return {workload.name: workload.before.score for workload in WORKLOADS.values()}

    def after(self, scores: Mapping[RunKey, float]) -> Round:
        """What can be planned when these runs are finished."""
        found = Round(by_scenario={scenario.name: {} for scenario in self.scenarios})
        n_contestants = max(len(scenario.contestants) for scenario in self.scenarios)
        for seed, rank, scenario in product(range(self.n_seeds), range(n_contestants), self.scenarios):
            for name in scenario.contestants[rank : rank + 1]:
                for workload in scenario.workloads:
                    self._add(found, scenario, name, workload, seed, scores)
        return found

    def _add(
        self,
        found: Round,
        scenario: Scenario,
        name: str,
        workload: ChangingWorkload,
        seed: int,
        scores: Mapping[RunKey, float],
    ) -> None:
        n_steps = scenario.steps(self.n_steps)
        contestant, first_lr = CONTESTANTS[name], None
        n_first = contestant.first_steps(n_steps)
        if n_first is not None:
            firsts = list(_sweep(WORKLOADS[workload.before.name], seed, n_first))
            found.keys |= dict.fromkeys(firsts)
            first_lr = _best(firsts, scores)
            if first_lr is None:
                found.n_waiting[scenario.name, name] = found.n_waiting.get((scenario.name, name), 0) + 1
                return
        for lr in contestant.lrs(workload):
            key = RunKey(workload.name, workload.version, name, lr, seed, n_steps)
            found.keys[key] = found.by_scenario[scenario.name][key] = None
            if first_lr is not None:
                found.first_lrs[key] = first_lr


def _sweep(workload: ChangingWorkload, seed: int, n_steps: int) -> Iterator[RunKey]:
    for lr in SCHEDULES[FIRST].lrs(workload):
        yield RunKey(workload.name, workload.version, FIRST, lr, seed, n_steps)


def _best(keys: list[RunKey], scores: Mapping[RunKey, float]) -> float | None:
    """The LR with the lowest score; None while runs are missing, or if all diverged."""
    if any(key not in scores for key in keys):
        return None
    by_lr = {key.lr: scores[key] for key in keys if key.lr is not None}
    return Sweep({0: by_lr}).best_on_average()
