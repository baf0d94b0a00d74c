"""The way to a bracket: an LR with a worse one on either side.

Notation: x, the natural log of a peak LR; d, the spacing of the first candidates in x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tuner_server.core.config import LrBounds
from tuner_server.core.messages import Candidate

MAX_SPACING = math.log(10.0)
"""d at most: a bowl of the loss is about a decade wide, so wider steps may jump over it."""
MIN_SPACING = math.log(2.0)
"""d at least: closer LRs differ by less than the noise, and a narrow range could not be left in so few steps."""
RANGE_SPACINGS = 3
"""d is this part of the range, between those limits."""
LEAST_STEP = 0.01
"""A step outward that the limits leave less than this part of d says nothing new."""
UNBOUNDED = 3
"""Upwards a range that nobody has given may be left by this power of the factor: by a thousand in place of ten."""
GROWTH = 2.0
"""Steps outward grow by this factor where the spacing is finer than d."""


def spacing(bounds: LrBounds) -> float:
    """The d of a range."""
    low, high = bounds.log
    return min(max((high - low) / RANGE_SPACINGS, MIN_SPACING), MAX_SPACING)


class Widening(NamedTuple):
    """How far a search may leave its range, as factors."""

    down: float
    up: float

    @classmethod
    def of(cls, factor: float, *, bounded: bool) -> Widening:
        """That of a policy's option; upwards it is more where nobody has said how far the range goes.

        What is known of the range is then the LR that was set, which may be the default of an optimizer.
        """
        return cls(factor, factor if bounded else factor**UNBOUNDED)


def limits(bounds: LrBounds, widening: Widening) -> tuple[float, float]:
    """The lowest and the highest x that may be tried."""
    low, high = bounds.log
    return low - math.log(widening.down), high + math.log(widening.up)


def _neighbours(candidates: Sequence[Candidate]) -> tuple[float, float | None, float | None]:
    """The x of the best candidate, and of the next lower and the next higher one that was tried."""
    xs = sorted(math.log(candidate.lr) for candidate in candidates)
    at = xs.index(math.log(min(candidates, key=lambda candidate: candidate.loss).lr))
    return xs[at], xs[at - 1] if at else None, xs[at + 1] if at + 1 < len(xs) else None


def outward(candidates: Sequence[Candidate], bounds: LrBounds, widening: Widening) -> float | None:
    """The next x on the way to a bracket; None: there is one, or the search may go no further."""
    if not candidates:
        return math.log(bounds.middle)
    d, (lowest, highest) = spacing(bounds), limits(bounds, widening)
    least = LEAST_STEP * d
    if all(candidate.diverged for candidate in candidates):
        tried = min(math.log(candidate.lr) for candidate in candidates)
        return max(tried - d, lowest) if tried - lowest > least else None
    best, below, above = _neighbours(candidates)
    if above is None and highest - best > least:
        return min(best + _step(d, best, below), highest)
    if below is None and best - lowest > least:
        return max(best - _step(d, best, above), lowest)
    return None


def _step(d: float, best: float, behind: float | None) -> float:
    """How far outward, given the neighbour behind: after the finer spacing of a head start, steps grow up to d."""
    return d if behind is None else min(d, GROWTH * abs(best - behind))


def bracket(candidates: Sequence[Candidate], bounds: LrBounds, widening: Widening) -> tuple[float, float]:
    """The neighbours of the best candidate; where it has none, as far as a step outward may go."""
    best, below, above = _neighbours(candidates)
    d, (lowest, highest) = spacing(bounds), limits(bounds, widening)
    return max(best - d, lowest) if below is None else below, min(best + d, highest) if above is None else above
