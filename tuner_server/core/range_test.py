"""The LR range test (Smith 2017, "Cyclical learning rates for training neural networks", section 3.3).

One probe whose LR rises exponentially through every LR that could be meant. The loss first stands still, then falls,
then blows up; the range to search lies before the blow-up.

Notation: loss[i] and lr[i] are those of step i; s[i] is the bias-corrected exponential moving average of the losses.
"""

from __future__ import annotations

import math

from lrpilot.profile import Profile, Shape

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.messages import BatchSource, Directive, Phase, Report

LOWEST_LR, HIGHEST_LR = 1e-6, 10.0
"""From below any LR that moves a network to above any that trains one, SGD and Adam alike."""
MIN_STEPS, MAX_STEPS = 40, 150
"""Some six to twenty steps a decade: fewer are noise, more buy nothing."""
SHARE = 0.02
"""Of the total steps, between those limits."""
SMOOTHING = 0.9
"""Of the moving average: it looks back some ten steps, under half a decade on the longest test."""
MIN_GAIN = 0.02
"""A relative fall of the smoothed loss below this is noise: the test then tells nothing."""
HEADROOM = 2.0
"""The upper bound lies so far above the LR of the lowest loss: that lags behind the edge by the smoothing."""
DECADES = 3.0
"""Width of the range that is searched."""
BLIND_FACTOR = 30.0
"""Without a finding, the range is the user's LR times and over this."""


def directive(config: JobConfig) -> Directive:
    """The range test, as a job's first directive."""
    total = config.total_steps
    n_steps = MAX_STEPS if total is None else int(min(max(total * SHARE, MIN_STEPS), MAX_STEPS))
    return Directive(
        phase=Phase.RANGE_TEST,
        n_steps=n_steps,
        profile=Profile(Shape.EXPONENTIAL, LOWEST_LR, HIGHEST_LR, n_steps),
        batches=BatchSource.REPLAYED,
        reason="no bounds were given: a range test looks for them",
    )


def bounds(tested: Directive, report: Report, config: JobConfig) -> LrBounds:
    """The bounds that a range test speaks for."""
    assert tested.profile is not None
    smoothed: list[float] = []
    average = 0.0
    for i, loss in enumerate(report.losses):
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING ** (i + 1)))
    if not smoothed:
        return blind(config)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    gain = smoothed[0] - smoothed[lowest]
    if gain <= MIN_GAIN * abs(smoothed[0]):
        return blind(config)
    upper = min(tested.profile.lr(lowest) * HEADROOM, HIGHEST_LR)
    return LrBounds(min=upper * 10**-DECADES, max=upper)


def blind(config: JobConfig) -> LrBounds:
    """Bounds around the user's LR, where nothing is known."""
    return LrBounds(min=config.base_lr / BLIND_FACTOR, max=config.base_lr * BLIND_FACTOR)
