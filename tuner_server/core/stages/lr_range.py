"""The LR range test (Smith 2017, "Cyclical learning rates for training neural networks", section 3.3).

One probe whose LR rises exponentially through every LR that could be meant. The loss first stands still, then falls,
then blows up; the range to search lies before the blow-up.

Notation: loss[i] and lr[i] are those of step i; s[i] is the bias-corrected exponential moving average of the losses.
What counts are differences, in units of the losses' own noise: the bounds are the same after a shift of the losses, or
a change of their unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.evidence.divergence import scatter
from tuner_server.core.messages import BatchSource, Directive, Phase, Report

LOWEST_LR, HIGHEST_LR = 1e-6, 10.0
"""From below any LR that moves a network to above any that trains one, SGD and Adam alike."""
MIN_STEPS, MAX_STEPS = 40, 150
"""Some six to twenty steps a decade: fewer are noise, more buy nothing."""
SHARE = 0.02
"""The test takes this part of the total steps, between those limits."""
SMOOTHING = 0.9
"""The weight of the past in the moving average: it looks back some ten steps, under half a decade on the longest
test."""
START = 10
"""Steps over which the loss is averaged for the start: the LR hardly moves a weight in these. The average is smooth by
then, too."""
MIN_GAIN_ERRORS = 4.0
"""Standard errors. A fall of the smoothed loss below this is noise: the test then tells nothing."""
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
    if config.total_time_s is not None:
        n_steps = MIN_STEPS  # nobody knows yet how long a step takes
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
    losses = list(itertools.takewhile(math.isfinite, report.losses))
    if len(losses) <= START:
        return blind(config)
    start = math.fsum(losses[:START]) / START
    smoothed = _smoothed([loss - start for loss in losses])
    lowest = min(range(START, len(losses)), key=smoothed.__getitem__)
    sd = scatter(np.asarray(losses[: lowest + 1]))
    error = sd * math.sqrt(1 / START + (1 - SMOOTHING) / (1 + SMOOTHING))
    if not -smoothed[lowest] > MIN_GAIN_ERRORS * error:
        return blind(config)
    upper = min(tested.profile.lr(lowest) * HEADROOM, HIGHEST_LR)
    return LrBounds(min=upper * 10**-DECADES, max=upper)


def _smoothed(losses: Sequence[float]) -> list[float]:
    found, average = [], 0.0
    for i, loss in enumerate(losses):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        found.append(average / (1 - SMOOTHING ** (i + 1)))
    return found


def blind(config: JobConfig) -> LrBounds:
    """Bounds around the user's LR, where nothing is known."""
    return LrBounds(min=config.base_lr / BLIND_FACTOR, max=config.base_lr * BLIND_FACTOR)
