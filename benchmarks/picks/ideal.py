"""What probes could tell at best: the optimum of a dense grid of them, times the one factor that fits whole runs best.

Nothing is searched here, and nothing is paid for. Notation: n, the steps of a probe; T, those of a run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.picks.evidence import Evidence
from benchmarks.picks.landscape import Surface
from benchmarks.quality.cases import Case
from benchmarks.quality.ratios import Ratios
from tuner_server.core.search.prior import LENGTH_EXPONENT
from tuner_server.core.stages.decayed_probe import length_correction

PROBE_STEPS = (6, 8, 10, 12, 16, 20, 25, 40, 65, 100, 150, 250)
FACTORS = tuple(np.geomspace(0.1, 2.0, 61).tolist())
_GRID_SIZE = 300
_HALF_WIDTH = math.log(6.0)
"""A cubic is fitted so far to either side of a grid's lowest point, since the noise of one probe says little."""


@dataclass(frozen=True)
class Ideal:
    """What probes of n steps could tell of runs of T steps.

    Attributes:
        probe_steps: n.
        n_steps: T.
        means: By factor, the mean ratio of scores to the best of the sweep.
        factor: The best of the factors.
        ratios: The ratios with it.
        used: The factor that policy `budget` takes.
        used_ratios: The ratios with that.
    """

    probe_steps: int
    n_steps: int
    means: dict[float, float]
    factor: float
    ratios: Ratios
    used: float
    used_ratios: Ratios


def optimum(surface: Surface, n_steps: int) -> float:
    """The x of the lowest loss after probes of `n_steps`, by a cubic through a dense grid around the lowest point.

    Raises:
        ValueError: All of them diverged.
    """
    x = np.linspace(*surface.range, _GRID_SIZE)
    loss = surface.at(n_steps, x)
    lowest = x[int(np.argmin(loss))]
    near = np.isfinite(loss) & (np.abs(x - lowest) < _HALF_WIDTH)
    if not near.any():
        raise ValueError(f"no optimum: every probe of {n_steps} steps diverged")
    cubic = np.polynomial.Polynomial.fit(x[near], loss[near], 3)
    inner = x[near & (np.abs(x - lowest) < _HALF_WIDTH / 2)]
    return float(inner[int(np.argmin(cubic(inner)))])


def ideals(evidence: Evidence, workloads: Collection[str], probe_steps: Sequence[int] = PROBE_STEPS) -> list[Ideal]:
    """The ideals for every n and T, over the cases of some workloads."""
    found = []
    for n in probe_steps:
        optima = {
            key: optimum(landscape.validation, n)
            for key, landscape in evidence.landscapes.items()
            if key[0] in workloads
        }
        for n_steps in evidence.lengths:
            cases = list(evidence.cases(n_steps, workloads))
            if cases:
                best_lrs = {case: optima[case.workload, case.seed] for case in cases}
                found.append(_ideal(evidence, n, n_steps, best_lrs))
    return found


def _ideal(evidence: Evidence, probe_steps: int, n_steps: int, optima: dict[Case, float]) -> Ideal:
    used = length_correction(probe_steps, n_steps, LENGTH_EXPONENT)
    factors = np.array([*FACTORS, used])
    curves = {case: np.exp(evidence.finals[case].log_ratios(x + np.log(factors))) for case, x in optima.items()}
    at = [Ratios({case: float(curve[i]) for case, curve in curves.items()}) for i in range(len(factors))]
    means = [ratios.mean for ratios in at[:-1]]
    best = int(np.argmin(means))
    return Ideal(probe_steps, n_steps, dict(zip(FACTORS, means, strict=True)), FACTORS[best], at[best], used, at[-1])
