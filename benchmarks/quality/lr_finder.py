"""The LR range test, and a run at the LR that it finds."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.lr_rules import ShapedLr
from benchmarks.quality.schedules import SHAPES
from benchmarks.quality.training import Curve, set_lr, train, train_step
from benchmarks.quality.workloads import Workload

# The range test's length and its stopping rule, as in fastai and PyTorch Lightning (4 times the best smoothed loss).
_FINDER_STEPS = 100
_FINDER_BLOW_UP = 4.0
_FINDER_SMOOTHING = 0.9


def find_lr(workload: Workload, seed: int) -> float:
    """LR range test (Smith 2017): where the smoothed training loss falls fastest as the LR grows.

    The LR grows geometrically through the workload's range, on a throw-away copy of the run.
    """
    session = workload.build(seed)
    batches = session.batches()
    lrs = np.geomspace(*workload.lr_range, _FINDER_STEPS)
    smoothed: list[float] = []
    average = 0.0
    for n_before, lr in enumerate(lrs):
        set_lr(session.optimizer, float(lr))
        loss = train_step(session, next(batches))
        average = _FINDER_SMOOTHING * average + (1 - _FINDER_SMOOTHING) * loss
        smoothed.append(average / (1 - _FINDER_SMOOTHING ** (n_before + 1)))
        if not smoothed[-1] <= _FINDER_BLOW_UP * min(smoothed):  # true for NaN as well
            smoothed.pop()
            break
    # The first losses are hardly smoothed and their differences are noise.
    skipped = min(10, len(smoothed) - 2)
    slopes = np.gradient(np.array(smoothed))
    return float(lrs[skipped + int(np.argmin(slopes[skipped:]))])


def run_lr_finder(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Cosine decay from the LR that the range test finds. Raises ValueError: `n_steps` has no room for both."""
    if n_steps <= _FINDER_STEPS:
        raise ValueError(f"the range test alone takes {_FINDER_STEPS} of {n_steps} steps")
    lr = find_lr(workload, seed)
    n_left = n_steps - _FINDER_STEPS
    curve = train(workload.build(seed), n_left, ShapedLr(SHAPES["cosine"], lr, n_left))
    return curve.after_search(_FINDER_STEPS, lr)
