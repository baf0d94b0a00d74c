"""Ratios of scores over cases: their mean, its standard error, the worst.

Workloads are fixed, seeds are the sample. Notation: ``W`` workloads; ``n_w`` seeds of workload ``w``; ``var_w`` the
sample variance over seeds of the log ratio. The mean is that over workloads of the mean over seeds, and its variance
is the sum over ``w`` of ``var_w / n_w``, over ``W ** 2``: the estimator of stratified sampling (Cochran 1977, Sampling
Techniques, section 5.4) with equal weights. What the workloads differ by is no error.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from benchmarks.quality.cases import Case


@dataclass(frozen=True)
class Ratios:
    """Ratios of scores by case, of one case at least, all at one length.

    Means are geometric, since ratios are compared; infinite when a run among them diverged.
    """

    by_case: Mapping[Case, float]

    @classmethod
    def between(cls, scores: Mapping[Case, float], base: Mapping[Case, float]) -> Self | None:
        """`scores` over those of `base`, in the cases that both have and in which `base` did not diverge.

        None if there are no such cases.
        """
        shared = [case for case in scores if math.isfinite(base.get(case, math.inf))]
        return cls({case: scores[case] / base[case] for case in shared}) if shared else None

    @property
    def n_diverged(self) -> int:
        return sum(map(math.isinf, self.by_case.values()))

    @property
    def mean(self) -> float:
        if self.n_diverged:
            return math.inf
        return math.exp(statistics.fmean(map(statistics.fmean, self._logs().values())))

    @property
    def standard_error(self) -> float | None:
        """The standard error of the log of the mean, which is the relative one of the mean.

        None if a run diverged or a workload has one seed only.
        """
        if self.n_diverged:
            return None
        logs = self._logs().values()
        if any(len(own) < 2 for own in logs):
            return None
        return math.sqrt(sum(statistics.variance(own) / len(own) for own in logs)) / len(logs)

    @property
    def differs(self) -> bool:
        """Whether the mean is more than two standard errors away from 1; not if there is no standard error."""
        error = self.standard_error
        return error is not None and abs(math.log(self.mean)) > 2 * error

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

    def of(self, workload: str) -> Ratios | None:
        """Those of one workload; None if there are none."""
        own = {case: ratio for case, ratio in self.by_case.items() if case.workload == workload}
        return Ratios(own) if own else None

    def _logs(self) -> dict[str, list[float]]:
        logs: dict[str, list[float]] = {workload: [] for workload in self.workloads}
        for case, ratio in self.by_case.items():
            logs[case.workload].append(math.log(ratio))
        return logs
