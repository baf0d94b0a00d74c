"""How far the optimum of a probe scatters from seed to seed, and what two lengths of probe say of the exponent.

The exponent is that with which the best peak LR falls with length. Notation: x, the natural log of a peak LR.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.picks.evidence import Evidence
from benchmarks.picks.ideal import PROBE_STEPS, optimum

PAIRS = ((8, 25), (12, 40), (20, 65), (40, 100))
"""Lengths about three apart."""
BySeed = Mapping[str, Mapping[int, float]]
"""Something by workload and seed."""


@dataclass(frozen=True)
class Exponents:
    """Exponents from a shorter and a longer length.

    Attributes:
        short: Steps.
        long: Steps.
        mean: Over the workloads of the mean over seeds.
        over_seeds: Standard deviation over the seeds of a workload, pooled.
        over_workloads: Standard deviation over workloads of the mean over seeds.
    """

    short: int
    long: int
    mean: float
    over_seeds: float
    over_workloads: float


@dataclass(frozen=True)
class Scatter:
    """All of it, over some workloads.

    Attributes:
        optima: By steps of a probe, the pooled standard deviation over seeds of the x of its optimum.
        between_probes: Exponents from two lengths of probe.
        to_runs: Exponents from a probe of the default length to runs, whose best LR is that of their sweep.
    """

    optima: Mapping[int, float]
    between_probes: tuple[Exponents, ...]
    to_runs: tuple[Exponents, ...]


def scatter(evidence: Evidence, workloads: Collection[str], probe_steps: int) -> Scatter:
    """Measures it; `probe_steps` is the default length. Raises: ValueError: a workload has one seed only."""
    x = {n: _optima(evidence, workloads, n) for n in {*PROBE_STEPS, probe_steps}}
    between = tuple(_exponents(short, long, x[short], x[long]) for short, long in PAIRS)
    to_runs = tuple(
        _exponents(probe_steps, n_steps, x[probe_steps], best)
        for n_steps in evidence.lengths
        if (best := _best_of_runs(evidence, workloads, n_steps))
    )
    return Scatter({n: _pooled(x[n]) for n in PROBE_STEPS}, between, to_runs)


def _optima(evidence: Evidence, workloads: Collection[str], n_steps: int) -> BySeed:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for (workload, seed), landscape in evidence.landscapes.items():
        if workload in workloads:
            found[workload][seed] = optimum(landscape.validation, n_steps)
    return found


def _best_of_runs(evidence: Evidence, workloads: Collection[str], n_steps: int) -> BySeed | None:
    """The x of the best of each sweep; None unless every workload has all of its seeds at that length."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for case in evidence.cases(n_steps, workloads):
        found[case.workload][case.seed] = math.log(evidence.finals[case].best_lr)
    complete = all(seed in found[w] for w, seed in evidence.landscapes if w in workloads)
    return found if found and complete else None


def _exponents(short: int, long: int, x_short: BySeed, x_long: BySeed) -> Exponents:
    stretch = math.log(long / short)
    found = {w: {seed: (x_short[w][seed] - x) / stretch for seed, x in own.items()} for w, own in x_long.items()}
    means = [statistics.fmean(own.values()) for own in found.values()]
    return Exponents(short, long, statistics.fmean(means), _pooled(found), statistics.stdev(means))


def _pooled(values: BySeed) -> float:
    return float(np.sqrt(statistics.fmean(statistics.variance(own.values()) for own in values.values())))
