"""All that picks are judged on: landscapes, final scores, and the LRs that users may have set."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.picks.finals import Finals, cost, finals, slopes
from benchmarks.picks.landscape import Landscape, landscapes
from benchmarks.picks.simulate import Pick, config, simulate
from benchmarks.picks.table import Probe, ProbeKey
from benchmarks.picks.variations import Variation
from benchmarks.quality.cases import Case
from benchmarks.quality.plan import LONGEST_FULL_SWEEP
from benchmarks.quality.results import RunKey
from benchmarks.quality.sweeps import Sweep
from benchmarks.quality.training import nominal_lr
from benchmarks.quality.workloads import WORKLOADS


@dataclass(frozen=True)
class Judged:
    """A pick, and its final score over the best of the sweep, the cost of its search included."""

    pick: Pick
    ratio: float


@dataclass(frozen=True)
class Evidence:
    """What is known of some cases.

    Attributes:
        landscapes: By workload and seed.
        finals: By case; all of them have a landscape.
        slopes: By workload and length, what a step is worth there (`finals.slopes`).
        nominal: By workload, the LR that its optimizer carries.
        best: By workload and length, the LR that is the best of the grid on average over the seeds; of full sweeps.
    """

    landscapes: Mapping[tuple[str, int], Landscape]
    finals: Mapping[Case, Finals]
    slopes: Mapping[tuple[str, int], float]
    nominal: Mapping[str, float]
    best: Mapping[tuple[str, int], float]

    @property
    def lengths(self) -> list[int]:
        return sorted({case.n_steps for case in self.finals})

    def cases(self, n_steps: int, workloads: Collection[str]) -> Iterator[Case]:
        """Those of one length and of some workloads."""
        return (case for case in self.finals if case.n_steps == n_steps and case.workload in workloads)

    def judge(self, case: Case, variation: Variation) -> Judged | None:
        """Simulates one case; None if there is no search, or no such user's LR."""
        workload, nominal = WORKLOADS[case.workload], self.nominal[case.workload]
        best = self.best.get((case.workload, case.n_steps))
        if variation.takes_best and best is None:
            return None
        users_lr = variation.users_lr(nominal, nominal if best is None else best)
        job_config = config(workload, case.n_steps, users_lr, case.seed, variation.options)
        pick = simulate(self.landscapes[case.workload, case.seed], job_config)
        if pick.search_steps == 0:
            return None
        lost = cost(pick.search_steps, case.n_steps, self.slopes[case.workload, case.n_steps])
        return Judged(pick, self.finals[case].ratio(pick.lr) * lost)


def gather(table: Mapping[ProbeKey, Probe], scores: Mapping[RunKey, float]) -> Evidence:
    """What a table and finished runs tell of the cases that are in both.

    Raises:
        ValueError: The table lacks probes, the runs have one length of a workload only, or there are no such cases.
    """
    found = {(state.workload, state.seed): own for state, own in landscapes(table).items()}
    known = {case: own for case, own in finals(scores).items() if (case.workload, case.seed) in found}
    if not known:
        raise ValueError("no case has both probes and a sweep of linear decays")
    workloads = dict.fromkeys(case.workload for case in known)
    nominal = {name: nominal_lr(WORKLOADS[name].build(0)) for name in workloads}
    return Evidence(found, known, slopes(known), nominal, _best_lrs(known))


def _best_lrs(known: Mapping[Case, Finals]) -> dict[tuple[str, int], float]:
    by_sweep: dict[tuple[str, int], dict[int, dict[float, float]]] = {}
    for case, own in known.items():
        if case.n_steps <= LONGEST_FULL_SWEEP:
            by_sweep.setdefault((case.workload, case.n_steps), {})[case.seed] = own.scores
    found = {key: Sweep(by_seed).best_on_average() for key, by_seed in by_sweep.items()}
    return {key: lr for key, lr in found.items() if lr is not None}
