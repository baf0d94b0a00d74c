"""Simulated picks beside those of real runs of policy `budget`, as far as there are any."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from benchmarks.picks.evidence import Evidence
from benchmarks.picks.variations import DEFAULT
from benchmarks.quality.cases import Case
from benchmarks.quality.plan import OURS
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve


@dataclass(frozen=True)
class Comparison:
    """Real runs of one length beside simulated ones of the same cases.

    Attributes:
        n_steps: The length.
        distance: Median over the cases of the distance between the two peak LRs, in natural logarithms.
        simulated: Ratios of simulated picks to the best of the sweep, their searches' costs included.
        real: Ratios of the final scores of the real runs to the same.
    """

    n_steps: int
    distance: float
    simulated: Ratios
    real: Ratios


def compare(
    evidence: Evidence, runs: Mapping[RunKey, Curve], scores: Mapping[RunKey, float], workloads: Collection[str]
) -> list[Comparison]:
    """Comparisons by length, of those that have runs which did not diverge. The runs may be of former constants."""
    known = {
        Case.of(key): key
        for key, curve in runs.items()
        if key.contestant == OURS and curve.peak_lr is not None and math.isfinite(scores[key])
    }
    found = []
    for n_steps in evidence.lengths:
        distances, simulated, real = [], {}, {}
        for case in evidence.cases(n_steps, workloads):
            key = known.get(case)
            judged = evidence.judge(case, DEFAULT) if key else None
            if key and judged:
                peak_lr = runs[key].peak_lr
                assert peak_lr is not None
                distances.append(abs(math.log(judged.pick.lr / peak_lr)))
                simulated[case] = judged.ratio
                real[case] = scores[key] / evidence.finals[case].best
        if distances:
            found.append(Comparison(n_steps, statistics.median(distances), Ratios(simulated), Ratios(real)))
    return found
