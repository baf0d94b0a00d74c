"""What of a curve's values an axis shows, and how high on it a value is drawn. Pure.

Losses that only a search reached, such as those of a probe that diverged, would flatten all others, and a decay to zero
has no end on a logarithmic axis: neither sets the axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DECADES = 4.0
"""Powers of ten below the highest committed value that a logarithmic axis shows; lower values are drawn at its end."""


def highest_loss(committed: Sequence[float], search: Sequence[float]) -> float:
    """The top of an axis of losses: the highest one that stayed. Where none stayed, it is the highest of all."""
    return max(committed or search)


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
