"""Whether a loss rose above where it started.

A curve that comes down again after that makes good what it lost, and looks as steep as progress never is. So its fall
is not to be extrapolated: the network may be on its way back to where it was, or to no more than chance gives.

A rise is one that lasts, or a spike that is shorter and higher. Everything moves with a shift of the losses, and scales
with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tuner_server.core.evidence.divergence import WINDOW, running_medians, scatter

WINDOW_SHARE = 1 / 8
"""A window's length is this share of a probe's losses, `WINDOW` at least: noise has no more windows to rise in if a
probe is long. A spike has half as many."""
LASTING_ERRORS = 4.0
"""Standard errors of the difference between a window's median and the start. Of 287 probes at LRs so low that the
weights hardly moved one came above this, by a tenth of one; 98% stayed below 3."""
SPIKE_ERRORS = 6.0
"""Standard errors, likewise, for a window half as long. Noise with a long tail moves its median further: those probes
reached 5.4."""
MEDIAN_VARIANCE = math.pi / 2.0
"""The variance of the median of many normal draws, in variances of their mean."""


def rose(losses: Sequence[float], start_loss: float, n_start: int) -> bool:
    """Whether losses rose above their start by more than the noise of batches explains.

    Args:
        losses: of a whole probe, from its first step on; finite.
        start_loss: the mean loss of some steps at the weights that the probe started from.
        n_start: how many steps those were, at least 1.

    Returns:
        Whether the highest median of some losses in a row says so. Of fewer losses than `WINDOW` nothing can be told:
        False.
    """
    if len(losses) < WINDOW:
        return False
    values, window = np.asarray(losses, dtype=np.float64), max(WINDOW, int(len(losses) * WINDOW_SHARE))
    sd = scatter(values)

    def above(window: int, errors: float) -> bool:
        error = sd * math.sqrt(1.0 / n_start + MEDIAN_VARIANCE / window)
        return float(running_medians(values, window).max()) > start_loss + errors * error

    return above(window, LASTING_ERRORS) or above(window // 2, SPIKE_ERRORS)
