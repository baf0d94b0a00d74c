"""The functional scaling law: the loss of kernel regression under any LR schedule, and which schedules are best there.

Li et al. 2025, "Functional scaling laws in kernel regression", NeurIPS 2025, arXiv 2509.19189; on best schedules arXiv
2602.06797. With the intrinsic time tau(t), the sum of the LRs up to step t:

    L(T) = level + signal * tau(T)^-source + noise * sum over i of lr_i^2 * (1 + tau(T) - tau(i))^-forgetting
    forgetting = 2 - 1 / capacity

The signal is learnt as a power of the walk, whatever the schedule. Noise that comes in at step i is forgotten as a
power of the walk since. The form of the kernel is not checked against the paper: take it as a picture, not as a
forecaster.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tuner_server.core.laws.lr_path import FloatArray


class FunctionalLaw(NamedTuple):
    """The law with its parameters."""

    level: float
    """L0: the loss without end and without noise."""
    signal: float
    """C: what is to be learnt."""
    source: float
    """S > 0: how fast it is learnt; the higher, the easier the task."""
    noise: float
    """K: the noise of gradients."""
    forgetting: float
    """The power with which noise is forgotten: 2 - 1 / beta, where beta > 1 is the capacity exponent."""

    def loss(self, lrs: FloatArray) -> float:
        """The loss after all steps, (T,) their LRs, not all zero."""
        time = np.cumsum(lrs)
        forgotten = (1 + time[-1] - time) ** -self.forgetting
        return float(self.level + self.signal * time[-1] ** -self.source + self.noise * (lrs**2 @ forgotten))


class BestSchedule(NamedTuple):
    """The schedule that the law calls best for a task."""

    easy: bool
    """Whether the task is easy: the peak falls with the run's length. If not, the highest stable LR is held, whatever
    the length, and falls over a vanishing share of the run."""
    power: float | None
    """The power of what is left of the run with which the LR falls from its peak; None: it is held, as in WSD."""


def best_schedule(source: float, capacity: float) -> BestSchedule:
    """The best schedule for a task (arXiv 2602.06797).

    Args:
        source: s > 0.
        capacity: beta > 1.

    Raises:
        ValueError: there is no such task.
    """
    if not (source > 0 and capacity > 1):
        raise ValueError(f"source {source} must be above 0, and capacity {capacity} above 1")
    if source >= 1 - 1 / capacity:
        return BestSchedule(easy=True, power=2 * capacity - 1)
    return BestSchedule(easy=False, power=None)
