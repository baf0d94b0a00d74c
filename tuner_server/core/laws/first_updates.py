"""What the first updates of an optimizer make of the best LR of a probe.

A probe is a few updates from fresh state. SGD with momentum gathers speed meanwhile, which makes LRs look good that are
too high for a run. An optimizer that divides by a mean of squared gradients which starts from zero, as RMSprop does,
moves too far meanwhile, so that LRs look good that are too low; and one that divides by their sum moves less and less.

Notation: u_k, by how much update k moves a weight whose gradient is always the same, in units of the LR; n, the steps
of a probe; T, those of the run; m, the momentum of the optimizers that the other constants of the search were chosen
with, beside ones with u_k = 1. With r = mean(u_1..u_n) / mean(u_1..u_T), and r_m that of u_k = 1 - m^k, the factor is
r / r_m below r_m, r above 1, and 1 in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

USUAL_MOMENTUM = 0.9
"""m"""
LARGEST = 10.0
"""The factor is at most this, and at least its inverse: what is known of u is about one weight and one gradient."""
ROUNDING = 1e-6
"""Sizes are measured, so a factor that should be 1 is only nearly so."""
STEADY = 0.02
"""Where the last two slopes of log u over log k differ by no more than this part, u goes on along the last one: it is a
power of k, as with Adagrad. Otherwise it has come to rest, or is about to."""
STEEPEST = 1.0
"""That power is at most this, either way: momentum that is never lost grows so."""
GRID = 512
"""Updates at which u is looked up to average it: all of the first, and then evenly in the log of k."""


def factor(sizes: Sequence[float], probe_steps: int, n_steps: int) -> float:
    """What the best LR of a probe is multiplied by for the run, besides the correction for length.

    Args:
        sizes: u_k at k = 1, 2, 4, 8, ...; empty: not known.
        probe_steps: n.
        n_steps: T.
    """
    if not sizes:
        return 1.0
    ratio = _mean(sizes, probe_steps) / _mean(sizes, n_steps)
    usual = 1.0 - np.power(USUAL_MOMENTUM, 2.0 ** np.arange(len(sizes)))
    least = _mean(usual.tolist(), probe_steps) / _mean(usual.tolist(), n_steps)
    if least * (1.0 - ROUNDING) <= ratio <= 1.0 + ROUNDING:
        return 1.0
    return min(max(ratio / least if ratio < least else ratio, 1.0 / LARGEST), LARGEST)


def _mean(sizes: Sequence[float], n: int) -> float:
    """The mean of u_1 to u_n."""
    k = np.unique(np.rint(np.geomspace(1, n, GRID))) if n > GRID else np.arange(1.0, n + 1)
    weights = np.diff(np.concatenate([[0.0], (k[:-1] + k[1:]) / 2, [float(n)]]))
    return float(np.average(_at(sizes, k), weights=weights))


def _at(sizes: Sequence[float], k: NDArray[np.float64]) -> NDArray[np.float64]:
    """[m] u at the updates `k`, [m]: log u is linear in log k between those that are known (`STEADY`: beyond them)."""
    x, known = np.log2(k), np.log2(np.asarray(sizes))
    inside = np.interp(x, np.arange(len(known)), known)
    beyond = np.maximum(x - (len(known) - 1), 0.0)
    sizes_at_k: NDArray[np.float64] = np.exp2(inside + _slope(known) * beyond)
    return sizes_at_k


def _slope(known: NDArray[np.float64]) -> float:
    """That of log u over log k beyond the last update that is known."""
    if len(known) < 3:
        return 0.0
    before, last = np.diff(known)[-2:].tolist()
    steady = abs(last - before) <= STEADY * abs(before)
    return min(max(float(last), -STEEPEST), STEEPEST) if steady else 0.0
