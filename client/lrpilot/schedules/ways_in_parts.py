"""The shapes that are made of parts: stairs, the cycle that rises first, and lines through given points."""

from __future__ import annotations

import bisect
import itertools
import math

from lrpilot.schedules.checks import at_least, between, count_at_most
from lrpilot.schedules.way import Weighted

MAX_KNOTS = 512
"""The most points that a line may be drawn through: directives stay small."""


class Step(Weighted):
    """The LR falls by a factor at every mark: w = factor^(marks at or before z)."""

    words = "in steps"
    defaults = (0.1, 0.5, 0.75)

    def __init__(self, *parameters: float) -> None:
        """Takes the factor, then the marks. Raises: ValueError: one is not from 0 to 1, or the marks don't ascend."""
        self._factor, *marks = parameters
        between(self._factor, 0.0, 1.0, "step: factor")
        if len(marks) > MAX_KNOTS:
            raise ValueError(f"step: {len(marks)} marks are more than {MAX_KNOTS}")
        for mark in marks:
            between(mark, 0.0, 1.0, "step: mark")
        if any(a >= b for a, b in itertools.pairwise(marks)):
            raise ValueError(f"step: the marks {marks[:8]} don't ascend")
        self._marks = tuple(marks)

    @classmethod
    def filled(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        """The usual marks in the place of none."""
        return given if len(given) > 1 else super().filled(given)

    @property
    def parameters(self) -> tuple[float, ...]:
        """The factor, and the marks."""
        return self._factor, *self._marks

    def weight(self, done: float) -> float:
        """The factors so far."""
        return float(self._factor ** bisect.bisect_right(self._marks, done))


class OneCycle(Weighted):
    """The LR rises along a cosine to its peak, then falls along another one below where it began.

    Smith 2018, arXiv 1803.09820; the defaults are those of PyTorch's OneCycleLR. `start` is the peak. w rises from
    1 / div over the part `rise` of the way, then falls to 1 / (div final_div).
    """

    words = "over one cycle"
    defaults = (0.3, 25.0, 1e4)

    def __init__(self, *parameters: float) -> None:
        """Takes rise, div and final_div. Raises: ValueError: one of them is out of its range."""
        count_at_most(parameters, 3, "one_cycle(rise, div, final_div)")
        self._rise, self._div, self._final_div = parameters
        between(self._rise, 0.0, 1.0, "one_cycle: rise")
        at_least(self._div, 1.0, "one_cycle: div")
        at_least(self._final_div, 1.0, "one_cycle: final_div")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The part of the way that rises, and what the peak is divided by at the beginning, and further at the end."""
        return self._rise, self._div, self._final_div

    @property
    def turns(self) -> tuple[float, ...]:
        """The peak."""
        return (self._rise,)

    def weight(self, done: float) -> float:
        """The height of the cycle."""
        first = 1 / self._div
        if done < self._rise:
            return _wave(first, 1.0, done / self._rise)
        left = 1 - self._rise
        return _wave(1.0, first / self._final_div, (done - self._rise) / left if left else 1.0)


class Infinite(Weighted):
    """The infinite schedule, where the end is known: a rise, a cosine to a plateau, and an exponential annealing.

    Singh et al. 2025, "Beyond cosine decay", arXiv 2503.02844, equation 1. `InfiniteSchedule` needs no end.
    """

    words = "over a plateau"
    defaults = (0.01, 0.6, 0.1, 0.55, 0.1)

    def __init__(self, *parameters: float) -> None:
        """Takes the shares of rise, cooldown and annealing, the constant and the last weight. Raises: ValueError."""
        count_at_most(parameters, 5, "infinite(rise, cooldown, annealing, constant, low)")
        self._rise, self._cooldown, self._annealing, self._constant, self._low = parameters
        for share in parameters[:3]:
            between(share, 0.0, 1.0, "infinite: share")
        if self._rise + self._cooldown + self._annealing > 1:
            raise ValueError("infinite: the shares of rise, cooldown and annealing are more than 1 together")
        between(self._constant, 0.0, 1.0, "infinite: constant")
        between(self._low, 0.0, self._constant, "infinite: low")
        if not self._low:
            raise ValueError("infinite: low is 0, which an exponential annealing never reaches")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The shares of rise, cooldown and annealing, the constant and the last weight."""
        return self._rise, self._cooldown, self._annealing, self._constant, self._low

    @property
    def turns(self) -> tuple[float, ...]:
        """The peak."""
        return (self._rise,)

    def weight(self, done: float) -> float:
        """The height of the rise, of the cooldown, of the plateau or of the annealing."""
        if done < self._rise:
            return done / self._rise
        plateau, end = self._rise + self._cooldown, 1 - self._annealing
        if done < plateau:
            return _wave(1.0, self._constant, (done - self._rise) / self._cooldown)
        if done < end or not self._annealing:
            return self._constant
        left = (done - end) / (1 - end) if end < 1 else 1.0
        return float(self._constant * (self._low / self._constant) ** left)


class Points(Weighted):
    """The LR moves along lines through given points, each a part of the way and a weight.

    The first point is at 0 and the last one at 1. Two at the same part make a jump, after which the second counts.
    """

    words = "along lines"

    def __init__(self, *parameters: float) -> None:
        """Takes done_0, weight_0, done_1, weight_1 and so on. Raises: ValueError: they make no such lines."""
        self._dones, self._weights = parameters[::2], parameters[1::2]
        if len(self._dones) != len(self._weights) or not 2 <= len(self._dones) <= MAX_KNOTS:
            raise ValueError(
                f"points: {len(parameters)} numbers are not from 2 to {MAX_KNOTS} pairs of a part and a weight"
            )
        if (self._dones[0], self._dones[-1]) != (0, 1):
            raise ValueError(f"points: they go from {self._dones[0]:g} to {self._dones[-1]:g}, not from 0 to 1")
        if any(a > b for a, b in itertools.pairwise(self._dones)):
            raise ValueError("points: the parts of the way don't ascend")
        if any(a == b for a, b in zip(self._dones, self._dones[2:], strict=False)):
            raise ValueError("points: more than two points are at the same part of the way")
        for weight in self._weights:
            between(weight, 0.0, 1.0, "points: weight")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The parts of the way and their weights, in turn."""
        return tuple(itertools.chain.from_iterable(zip(self._dones, self._weights, strict=True)))

    @property
    def turns(self) -> tuple[float, ...]:
        """The points between lines that don't both rise or both fall."""
        sides = zip(self._dones[1:], self._weights, self._weights[1:], self._weights[2:], strict=False)
        return tuple(done for done, before, at, after in sides if not (before < at < after or before > at > after))

    def weight(self, done: float) -> float:
        """The height of the line."""
        after = bisect.bisect_right(self._dones, done)
        if after == len(self._dones):
            return self._weights[-1]
        share = (done - self._dones[after - 1]) / (self._dones[after] - self._dones[after - 1])
        low, high = self._weights[after - 1], self._weights[after]
        return low + (high - low) * share


def _wave(begin: float, end: float, done: float) -> float:
    """Half a wave from one height to another."""
    return end + (begin - end) * (1 + math.cos(math.pi * done)) / 2
