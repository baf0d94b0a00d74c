"""Schedules that keep their shape through a change: those of `benchmarks.quality`, SGDR and the infinite schedule.

Notation as in `benchmarks.quality.schedules`: a shape maps progress ``p`` in [0, 1] to the LR as a share of the peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.onthefly.contestant import Trial
from benchmarks.onthefly.phases import train_through
from benchmarks.onthefly.workloads import ChangingWorkload
from benchmarks.quality.lr_rules import ShapedLr
from benchmarks.quality.schedules import SHAPES, WARMUP, WSD_DECAY, Shape, with_warmup
from benchmarks.quality.training import Curve

# One restart, in the middle of the run, where the changes are: a schedule could not be luckier.
_CYCLE = 0.5

# Ibrahim et al. 2024 (arXiv 2403.08763): the constant LR lies in the middle between the highest and the lowest one,
# which is a tenth; annealing is exponential. The cooldown to the constant takes 60% of the first half. Annealing takes
# as long as that of WSD does, so that the two can be compared.
_CONSTANT = 0.55
_LOWEST = 0.1
_COOLDOWN = 0.3


def _sgdr(p: float) -> float:
    """Loshchilov & Hutter 2017 (SGDR), equation 5: cosine decays to zero, with a restart."""
    return 0.5 * (1.0 + math.cos(math.pi * (p % _CYCLE) / _CYCLE)) if p < 1.0 else 0.0


def _infinite(p: float) -> float:
    """Cosine cooldown to a constant LR that is kept for as long as there are data, then annealing."""
    if p > 1.0 - WSD_DECAY:
        return float(_CONSTANT * (_LOWEST / _CONSTANT) ** ((p - 1.0 + WSD_DECAY) / WSD_DECAY))
    cooled = min(1.0, (p - WARMUP) / _COOLDOWN)
    return _CONSTANT + (1.0 - _CONSTANT) / 2 * (1.0 + math.cos(math.pi * cooled))


@dataclass(frozen=True)
class Schedule:
    """A shape over the whole run, with each of the workload's LRs as its peak."""

    shape: Shape

    def first_steps(self, n_steps: int) -> int | None:
        """There is one LR for the whole run."""
        return None

    def lrs(self, workload: ChangingWorkload) -> tuple[float | None, ...]:
        """The workload's."""
        return workload.lrs

    def run(self, workload: ChangingWorkload, trial: Trial) -> Curve:
        """Trains one run."""
        return train_through(workload, self._rule(trial), trial.seed)

    def lr(self, trial: Trial, step: int) -> float:
        """The LR of a step of a run."""
        return self._rule(trial).lr(step)

    def _rule(self, trial: Trial) -> ShapedLr:
        assert trial.lr is not None
        return ShapedLr(self.shape, trial.lr, trial.n_steps)


SCHEDULES: dict[str, Schedule] = {
    "linear": Schedule(SHAPES["linear"]),
    "sgdr": Schedule(with_warmup(_sgdr)),
    "infinite": Schedule(with_warmup(_infinite)),
    "wsd": Schedule(SHAPES["wsd"]),
}
