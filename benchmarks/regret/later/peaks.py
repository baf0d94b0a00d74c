"""The peak that a run was tuned to before anything changed."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch

from benchmarks.quality.training import set_lr, train_step
from benchmarks.quality.workloads import WORKLOADS
from benchmarks.regret.later import changes
from benchmarks.regret.oracle import decay

SEED = 7
"""None of the states' seeds: a peak is tuned without knowing the run that it is for."""


@cache
def tuned_peak(workload: str, n_steps: int, *, frozen: bool = False) -> float:
    """The best peak of a linear decay over so many steps; `frozen`: of the last layer alone.

    It is the vertex of the parabola through the lowest loss of the workload's grid and its two neighbours, over log LR.
    """
    lrs = WORKLOADS[workload].lr_grid
    losses = [_final(workload, lr, n_steps, frozen=frozen) for lr in lrs]
    best = int(np.argmin(losses))
    around = slice(max(best - 1, 0), best + 2)
    x, y = np.log(lrs[around]), np.log(losses[around])
    if len(x) < 3 or not np.isfinite(y).all():
        return lrs[best]
    curvature, slope, _ = np.polyfit(x, y, 2)
    return math.exp(min(max(-slope / (2 * curvature), x[0]), x[-1]))


def _final(workload: str, lr: float, n_steps: int, *, frozen: bool) -> float:
    session = WORKLOADS[workload].build(SEED)
    torch.manual_seed(SEED)
    if frozen:
        changes.freeze(session)
    profile, batches = decay(lr, n_steps), session.batches()
    for step in range(n_steps):
        set_lr(session.optimizer, profile.lr(step))
        if not math.isfinite(train_step(session, next(batches))):
            return math.inf
    return session.validate()
