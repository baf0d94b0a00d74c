"""What of a chart's values its axis shows, so that one that is far out does not flatten all others. Pure."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable

import numpy as np
from lrpilot.wire.axes import FAR_OUT, axis_floor, highest_loss

LARGEST = sys.float_info.max
"""JSON has no infinity."""
PADDING = 0.06
"""The part of the range that is added on either side: markers are not cut in half."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Whether a value is in it; NaN is in none."""
        return self.low <= value <= self.high


def fence(values: Iterable[float]) -> Range:
    """What lies beyond is far out, as most of these values see it; with no finite one among them, nothing is.

    A loss that differs from the median by less than the median itself is never far out, however equal the others are.
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return Range(-math.inf, math.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # between the two largest doubles nothing is far out
        low, median, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    room = max(FAR_OUT * (high - low), abs(median))
    return Range(low - room, high + room)


def of_losses(committed: Iterable[float | None], others: Iterable[float | None]) -> Range:
    """An axis for losses over steps: up to the worst that stayed, so that what a search reached beyond is cut off.

    Args:
        committed: the losses of the steps that stayed, in their order; None is no loss. What exploded among them is cut
            off. Where there is none, all count.
        others: the losses of the other steps that are worth seeing.
    """
    known = [value for value in others if value is not None]
    kept = [value for value in committed if value is not None]
    if not known and not kept:
        return Range(0.0, 1.0)
    return Range(min(known + kept), highest_loss(kept, known))


def of_lrs(committed: Iterable[float | None], others: Iterable[float | None]) -> Range:
    """A logarithmic axis for LRs over steps; from 1 to 1 if none is positive.

    Args:
        committed: the LRs of the steps that stayed; None is no LR. What is far below the highest of them is cut off.
            Where there is none, all count.
        others: the LRs of the other steps that are worth seeing.
    """
    kept = [lr for lr in committed if lr is not None and lr > 0]
    known = [lr for lr in others if lr is not None and lr > 0] + kept
    high = max(known, default=1.0)
    return Range(max(min(known, default=1.0), axis_floor(kept, high)), high)


def shown(values: Iterable[float], limits: Range) -> Range:
    """An axis for all finite values within the limits; from 0 to 1 if there are none."""
    within = [value for value in values if math.isfinite(value) and value in limits]
    if not within:
        return Range(0.0, 1.0)
    low, high = min(within), max(within)
    room = PADDING * ((high - low) or abs(high) or 1.0)
    return Range(max(low - room, -LARGEST), min(high + room, LARGEST))
