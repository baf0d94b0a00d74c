"""When losses are too high to go on.

A divergence ends a probe early, and gives committed steps back, so the level must be one that a sound run does not
touch: the noise of a mini-batch, or the hump after a large LR on fresh weights, is none. No single batch says where
that is. The probes that came out sound do, and no level is known before the first of them.

The client gives up once several losses in a row are above the level (`lrpilot.wire.divergence`). So the level need not
lie above the worst batch; it has to lie above the bulk of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tuner_server.core.messages import Outcome, Report, Value

WINDOW = 10
"""Losses whose median says where a run is: the noise of a batch has little say in it."""
DIVERGENCE_FACTOR = 8.0
"""The level lies so many times as far above what is typical as sound probes came below it, unless a policy's options
say otherwise."""
FURTHEST = 10.0
"""What a probe tells holds up to so many times its LR; beyond, the level rises with the root of the LR. A probe at too
low an LR gains in proportion to it, and knows nothing of humps; in proportion, the level would rise out of reach."""
SPREADS = 40.0
"""The level lies at least so many standard deviations above what is typical: a hump may have more than the noise."""
RISE = 2.0
"""Standard deviations by which a sound probe's last median may lie above its first: chance moves them 0.6 apart."""
NORMAL_SD = 1.4826 / math.sqrt(2.0)
"""The standard deviation of normal noise, in medians of the absolute difference of two draws."""


class SoundLosses(Value):
    """Where the losses of a sound run lie."""

    typical: float
    """The highest that a sound probe kept to: the largest median of `WINDOW` losses in a row."""
    sd: float
    """How far the losses of a step scatter."""
    lowest: float | None = None
    """The lowest that a sound probe came to: the smallest such median; None in states from before it was kept."""
    lowest_lr: float | None = None
    """The peak LR of that probe."""

    def level(self, factor: float, lr: float, start_loss: float | None = None) -> float | None:
        """The loss above which a run diverges. It moves with a shift of the losses, and scales with them.

        Args:
            factor: how many times as far above what is typical as sound probes came below it is too much.
            lr: the peak of those steps that are to be judged.
            start_loss: the loss at the stage's start, a mean over several batches.

        Returns:
            The level; None if no loss ever moved, or it is not known how far: only one that is not finite diverges.
        """
        if self.lowest is None or self.lowest_lr is None:
            return None
        typical = self.typical if start_loss is None else max(self.typical, start_loss)
        gain = (typical - self.lowest) * math.sqrt(max(lr / (FURTHEST * self.lowest_lr), 1.0))
        margin = max(factor * gain, SPREADS * self.sd)
        return typical + margin if margin > 0 else None


def running_medians(losses: NDArray[np.float64], window: int = WINDOW) -> NDArray[np.float64]:
    """The median of every `window` losses in a row, (n - window + 1,) of `losses`, (n,), n >= window."""
    start, step = losses.shape[0] - window + 1, losses.strides[0]
    windows = np.lib.stride_tricks.as_strided(losses, (start, window), (step, step), writeable=False)
    return medians(windows)


def scatter(losses: NDArray[np.float64]) -> float:
    """How far the losses of single steps scatter: the standard deviation of their noise, if that is normal.

    Taken from the differences of neighbours, so that the course of the loss is not taken for noise.

    Args:
        losses: (n,), n >= 2.
    """
    return NORMAL_SD * float(medians(np.abs(losses[1:] - losses[:-1])))


def medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`numpy.median` along the last axis, in half its time: here nothing is looked for that is not finite."""
    middle, odd = divmod(values.shape[-1], 2)
    if odd:
        medians: NDArray[np.float64] = np.partition(values, middle)[..., middle]
        return medians
    halves = np.partition(values, (middle - 1, middle))
    return 0.5 * (halves[..., middle - 1] + halves[..., middle])


def learn(known: SoundLosses | None, lr: float, report: Report) -> SoundLosses | None:
    """What is known after a probe at that peak LR: it teaches if it is long enough and its losses did not rise."""
    if report.outcome is not Outcome.COMPLETED or report.n_steps < WINDOW:
        return known
    losses = np.asarray(report.losses)
    medians = running_medians(losses)
    typical, lowest, sd = float(medians.max()), float(medians.min()), scatter(losses)
    if medians[-1] > medians[0] + RISE * sd:
        return known
    if known is not None:
        typical, sd = max(known.typical, typical), max(known.sd, sd)
        if known.lowest is not None and known.lowest <= lowest:
            return known.model_copy(update={"typical": typical, "sd": sd})
    return SoundLosses(typical=typical, sd=sd, lowest=lowest, lowest_lr=lr)


def level_reached(report: Report, start_loss: float | None) -> float | None:
    """What the loss of a probe that diverged is known to have reached, the level of a censored observation, if any."""
    known = [loss for loss in report.losses if math.isfinite(loss)]
    if start_loss is not None:
        known.append(start_loss)
    return max(known, default=None)
