"""A sweep: one contestant on one workload at one length, with every LR and several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """Scores by seed and LR; every seed has the same LRs."""

    by_seed: Mapping[int, Mapping[float, float]]

    def best_lrs(self) -> set[float]:
        """The LRs that are best with some seed; the lower one of equals. Seeds that diverge everywhere have none."""
        bests = (min(sorted(own.items()), key=lambda item: item[1]) for own in self.by_seed.values() if own)
        return {lr for lr, score in bests if math.isfinite(score)}

    def best_on_average(self, seeds: Collection[int] | None = None) -> float | None:
        """The LR with the lowest mean log score over `seeds`, which are all by default; the lower one of equals.

        None without seeds, or where every LR diverged with some of them.
        """
        chosen = [own for seed, own in self.by_seed.items() if seeds is None or seed in seeds]
        if not chosen:
            return None
        means = {lr: statistics.fmean(math.log(own[lr]) for own in chosen) for lr in sorted(chosen[0])}
        best = min(means, key=means.__getitem__, default=None)
        return best if best is not None and math.isfinite(means[best]) else None

    def picks(self) -> dict[int, float]:
        """The best LR on average over the other seeds, for every seed that has one."""
        picks = {seed: self.best_on_average(self.by_seed.keys() - {seed}) for seed in self.by_seed}
        return {seed: lr for seed, lr in picks.items() if lr is not None}
