"""Whether a loss rose above where it started.

A curve that comes down again after that makes good what it lost, and looks as steep as progress never is. So its fall
is not to be extrapolated: the network may be on its way back to where it was, or to no more than chance gives.

Everything moves with a shift of the losses, and scales with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tuner_server.core.divergence import WINDOW, running_medians, scatter

STANDARD_ERRORS = 4.0
"""Of the difference between a window's median and the start. Of 164 probes at LRs so low that the weights hardly moved
the highest median lay 3.1 of them above the start at most."""
WINDOW_SHARE = 8
"""One in so many of a probe's losses is a window's length, `WINDOW` at least: noise has no more windows to rise in if a
probe is long."""
MEDIAN_VARIANCE = math.pi / 2.0
"""Of the median of many normal draws, in variances of their mean."""


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
    values, window = np.asarray(losses, dtype=np.float64), max(WINDOW, len(losses) // WINDOW_SHARE)
    error = scatter(values) * math.sqrt(1.0 / n_start + MEDIAN_VARIANCE / window)
    return float(running_medians(values, window).max()) > start_loss + STANDARD_ERRORS * error
