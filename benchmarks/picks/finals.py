"""What whole runs end at: final scores of linear decays, between the LRs of a sweep, and what lost steps cost.

Scores are those of the quality benchmark (`benchmarks.quality.scores`). Notation: x, the natural log of a peak LR.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks.quality.cases import Case
from benchmarks.quality.plan import LONGEST_FULL_SWEEP, REFERENCE
from benchmarks.quality.pruning import with_neighbours
from benchmarks.quality.results import RunKey
from benchmarks.quality.workloads import WORKLOADS
from tuner_server.core.forecast import FloatArray

CAP = 20.0
"""The largest ratio of a score of the sweep to the best one: a diverged run has none, and one near it any."""


class Finals:
    """Final scores of one case over x, relative to the best of its sweep.

    Between the LRs of the sweep the log of the ratio is a monotone cubic (PCHIP), which has its lowest point at the
    best of them. Beyond them it goes on as a straight line, but never falls.
    """

    def __init__(self, scores: Mapping[float, float]) -> None:
        """Fits the curve.

        Args:
            scores: By LR, three at least; infinity for a diverged run.

        Raises:
            ValueError: There are fewer, or the best one is no positive number.
        """
        self.scores = dict(sorted(scores.items()))
        self.best_lr, self.best = min(self.scores.items(), key=lambda item: item[1])
        if len(scores) < 3 or not 0.0 < self.best < math.inf:
            raise ValueError(f"no ratios to the best of {len(scores)} scores, which is {self.best}")
        x = np.log(list(self.scores))
        y = np.log(np.minimum(np.array(list(self.scores.values())) / self.best, CAP))
        self._ends = x[0], x[-1]
        self._curve = PchipInterpolator(x, y)
        self._rises = max((y[0] - y[1]) / (x[1] - x[0]), 0.0), max((y[-1] - y[-2]) / (x[-1] - x[-2]), 0.0)

    def log_ratios(self, x: FloatArray) -> FloatArray:
        """Log of the score at `x` (m,) over the best of the sweep."""
        (low, high), (rise_below, rise_above) = self._ends, self._rises
        outside = rise_below * np.maximum(low - x, 0.0) + rise_above * np.maximum(x - high, 0.0)
        found: FloatArray = self._curve(np.clip(x, low, high)) + outside
        return found

    def ratio(self, lr: float) -> float:
        """The score at an LR over the best of the sweep."""
        return math.exp(float(self.log_ratios(np.array([math.log(lr)]))[0]))


def finals(scores: Mapping[RunKey, float]) -> dict[Case, Finals]:
    """The cases of which the sweep of linear decay is there.

    That is the whole grid in runs of up to `LONGEST_FULL_SWEEP` steps, and in longer ones the best LR with its
    neighbours. Cases in which all diverged are left out.
    """
    cells: dict[Case, dict[float, float]] = defaultdict(dict)
    for key, score in scores.items():
        workload = WORKLOADS.get(key.workload)
        if key.contestant == REFERENCE and key.lr is not None and workload and key.version == workload.version:
            cells[Case.of(key)][key.lr] = score
    found = {}
    for case, cell in cells.items():
        best, grid = min(cell, key=cell.__getitem__), WORKLOADS[case.workload].lr_grid
        wanted = grid if case.n_steps <= LONGEST_FULL_SWEEP else with_neighbours(grid, {best})
        if all(lr in cell for lr in wanted) and len(cell) > 2 and math.isfinite(cell[best]):
            found[case] = Finals(cell)
    return found


def slopes(found: Mapping[Case, Finals]) -> dict[tuple[str, int], float]:
    """The power of the steps by which the best score falls, by workload and length.

    It is that between the next shorter and the next longer length, or from the shortest or to the longest one, over the
    seeds that both have; at least 0, so that a lost step is never a gain.

    Raises:
        ValueError: A workload has one length only.
    """
    logs: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for case, own in found.items():
        logs[case.workload][case.n_steps][case.seed] = math.log(own.best)
    powers = {}
    for workload, by_length in logs.items():
        lengths = sorted(by_length)
        if len(lengths) < 2:
            raise ValueError(f"{workload}: sweeps of {lengths[0]} steps only don't tell what a step is worth")
        for i, n_steps in enumerate(lengths):
            short, long = lengths[max(i - 1, 0)], lengths[min(i + 1, len(lengths) - 1)]
            shared = by_length[short].keys() & by_length[long].keys()
            falls = [by_length[short][seed] - by_length[long][seed] for seed in shared]
            powers[workload, n_steps] = max(statistics.fmean(falls) / math.log(long / short), 0.0)
    return powers


def cost(search_steps: int, n_steps: int, slope: float) -> float:
    """The factor by which the final score of a run is higher for the steps that its search takes."""
    return math.pow(1 - search_steps / n_steps, -slope)
