"""What our policy makes of an optimizer that carries a tuned LR, beside linear decay with that same LR."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from benchmarks.quality.cases import Case
from benchmarks.quality.plan import REFERENCE
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.results import RunKey
from benchmarks.quality.users_lr import USERS_LR


@dataclass(frozen=True)
class LrPairs:
    """Scores of `budget, user's LR` over those of `linear`, both with the same LR and in the same case.

    Attributes:
        ratios: By run of ours, at one length; there is at least one.
        best: By workload, the LR with the best mean over seeds of `linear`.
        n_without: Runs of ours that have no ratio, since `linear` diverged with their LR.
    """

    ratios: Mapping[RunKey, float]
    best: Mapping[str, float]
    n_without: int

    @property
    def worst(self) -> RunKey:
        return max(self.ratios, key=self.ratios.__getitem__)

    @property
    def positions(self) -> list[int]:
        """How far the LRs are from the best one, in half decades."""
        return sorted({self.position(key) for key in self.ratios})

    def position(self, key: RunKey) -> int:
        """How far a run's LR is from the best one, in half decades."""
        assert key.lr is not None
        return round(2 * math.log10(key.lr / self.best[key.workload]))

    def at(self, position: int) -> Ratios | None:
        """Those whose LR is so many half decades from the best one; None if there are none."""
        own = {Case.of(key): ratio for key, ratio in self.ratios.items() if self.position(key) == position}
        return Ratios(own) if own else None

    @property
    def over_lrs(self) -> Ratios:
        """The geometric mean over the LRs of each case."""
        logs = defaultdict(list)
        for key, ratio in self.ratios.items():
            logs[Case.of(key)].append(math.log(ratio))
        return Ratios({case: math.exp(statistics.fmean(own)) for case, own in logs.items()})


def lr_pairs(
    keys: Iterable[RunKey], scores: Mapping[RunKey, float], best: Mapping[str, float], n_steps: int
) -> LrPairs | None:
    """The pairs at one length among planned `keys`, of cases of which no run is missing; None if there are none.

    Args:
        keys: All planned runs.
        scores: Of finished runs.
        best: By workload, the LR with the best mean over seeds of `linear` at that length.
        n_steps: The length.
    """
    by_case: dict[Case, list[RunKey]] = defaultdict(list)
    for key in keys:
        if (key.contestant, key.n_steps) == (USERS_LR, n_steps):
            by_case[Case.of(key)].append(key)
    ratios, n_without = {}, 0
    for own in by_case.values():
        bases = [replace(key, contestant=REFERENCE) for key in own]
        if not all(key in scores for key in (*own, *bases)):
            continue
        for key, base in zip(own, bases, strict=True):
            if math.isfinite(scores[base]):
                ratios[key] = scores[key] / scores[base]
            else:
                n_without += 1
    return LrPairs(ratios, best, n_without) if ratios else None
