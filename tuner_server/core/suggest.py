"""One suggestion: which LR to try next, and the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner_server.core.acquisition import Acquisition
from tuner_server.core.surrogate import FloatArray, Observations, PriorMean, Surrogate

GRID_SIZE = 256
"""LRs at which the acquisition is evaluated: over four decades, 3.7% apart, well below what a loss can tell apart."""
MIN_SEPARATION = 0.01
"""As a fraction of the range of log LR: over four decades, 10% in LR. The loss can't tell closer LRs apart."""
EVIDENCE_SIZE = 64
"""Points of the curves that are kept: enough for a plot, little to store."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the surrogate thought, over `EVIDENCE_SIZE` LRs at most; all arrays have the same length."""

    log_lr: FloatArray
    mean: FloatArray
    sd: FloatArray
    acquisition: FloatArray


@dataclass(frozen=True, eq=False)
class Suggestion:
    """The LR to try next.

    Attributes:
        log_lr: Its natural logarithm.
        evidence: None for the first LR, which is drawn.
    """

    log_lr: float
    evidence: Evidence | None


def suggest(
    observations: Observations,
    bounds: tuple[float, float],
    acquisition: Acquisition,
    *,
    seed: int,
    prior_mean: PriorMean | None = None,
    grid_size: int = GRID_SIZE,
    min_separation: float = MIN_SEPARATION,
) -> Suggestion:
    """The LR inside the bounds with the highest acquisition; the same for the same arguments, bit for bit.

    Args:
        observations: What is known. With none, the LR is drawn log-uniformly, by `seed`.
        bounds: Natural logarithms of the lowest and the highest LR.
        acquisition: Ranks the LRs.
        seed: Of the first draw; makes no difference afterwards.
        prior_mean: See `Surrogate`.
        grid_size: How many LRs are compared.
        min_separation: LRs closer than this to one that was observed are not suggested, as a fraction of the range.
            Where all are, the one farthest from any is.

    Raises:
        ValueError: The bounds are not finite or not in order.
    """
    surrogate = Surrogate(bounds, prior_mean)
    low, high = bounds
    if not len(observations):
        return Suggestion(float(np.random.default_rng(seed).uniform(low, high)), evidence=None)
    grid = np.linspace(low, high, grid_size)
    # The observed LRs go along: the lowest mean among them is the incumbent, which noise can't flatter as it can the
    # lowest observed loss.
    posterior = surrogate.fit(observations).posterior(np.concatenate([grid, observations.log_lr]))
    mean = posterior.mixture_mean()
    value = acquisition.evaluate(posterior, best=float(mean[grid_size:].min()))[:grid_size]

    distance = np.abs(grid[:, None] - observations.log_lr).min(axis=1)
    eligible = distance >= min(min_separation * (high - low), distance.max())
    chosen = int(np.where(eligible, value, -np.inf).argmax())

    thinned = np.linspace(0, grid_size - 1, min(grid_size, EVIDENCE_SIZE)).round().astype(int)
    sd = np.sqrt(posterior.mixture_variance())
    return Suggestion(
        log_lr=float(grid[chosen]),
        evidence=Evidence(grid[thinned], mean[thinned], sd[thinned], value[thinned]),
    )
