"""What of a curve's values an axis shows, and how high on it a value is drawn. Pure.

Losses that only a search reached, such as those of a probe that diverged, would flatten all others, as would a batch
whose loss exploded, and a decay to zero has no end on a logarithmic axis: none of them sets the axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DECADES = 4.0
"""Powers of ten below the highest committed value that a logarithmic axis shows; lower values are drawn at its end."""


FAR_OUT = 3.0
"""Interquartile ranges above the upper quartile a value is far out (Tukey, Exploratory Data Analysis, 1977)."""


def highest_loss(committed: Sequence[float], search: Sequence[float]) -> float:
    """The top of an axis of losses: the highest one that stayed and did not explode.

    Args:
        committed: losses that stayed, in their order.
        search: those of a search, which count where none stayed.
    """
    losses = committed or search
    bound = explodes_above(losses)
    return max(loss for loss in losses if loss <= bound)


def explodes_above(losses: Sequence[float]) -> float:
    """The value beyond which a loss has exploded, as the others see it; the first one never has.

    A loss is in its place that is no further above the lowest than twice the first, that is not far out as most of the
    losses are, or that differs from the median by no more than the median itself.
    """
    ordered = sorted(losses)
    lower, median, upper = (ordered[round(part * (len(ordered) - 1))] for part in (0.25, 0.5, 0.75))
    return max(2 * losses[0] - ordered[0], upper + FAR_OUT * (upper - lower), median + abs(median))


def axis_floor(committed: Sequence[float], highest: float) -> float:
    """The lowest value that a logarithmic axis reaches down to; `highest` stands in where nothing positive stayed."""
    return max((value for value in committed if value > 0), default=highest) / 10**DECADES


def height(value: float, low: float, high: float, *, log: bool) -> float:
    """How high a value is drawn, from 0 at the bottom to 1; values beyond the axis are drawn at its ends."""
    value = min(max(value, low), high)
    if low == high:
        return 0.5
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
