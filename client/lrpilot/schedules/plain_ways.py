"""The shapes that are one formula each.

Notation: z, the part of the way that lies behind, `done`; w, the weight of the LR that the way begins with.
"""

from __future__ import annotations

import math

from lrpilot.schedules.checks import at_least, between, count_at_most
from lrpilot.schedules.way import Way, Weighted


class Constant(Way):
    """The LR stays where it is."""

    words = "at a constant LR"
    moves = False

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR that it began with."""
        return start


class Linear(Way):
    """The LR moves by the same amount at every step: w = 1 - z."""

    words = "along a line"

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR on the line."""
        return start + (end - start) * done


class Exponential(Way):
    """The LR moves by the same factor at every step: start (end / start)^z."""

    words = "exponentially"

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR after that part of the factors."""
        return float(start * (end / start) ** done)

    def fault(self, start: float, end: float) -> str:
        """Refuses zero, which no factor leads to or away from."""
        return "an exponential never reaches zero" if 0 in (start, end) else ""

    def has_numbers(self, start: float, end: float) -> bool:
        """Whether the factor of the whole way is a number."""
        return 0 < end / start < math.inf


class Cosine(Weighted):
    """The LR follows half a wave, and leaves and arrives slowly: w = (1 + cos(pi z)) / 2 (Loshchilov, Hutter 2017)."""

    words = "along a cosine"

    def weight(self, done: float) -> float:
        """The height of the wave."""
        return (1 + math.cos(math.pi * done)) / 2


class MirrorCosine(Weighted):
    """The LR leaves and arrives fast: the cosine, reflected at the line, w = 2 (1 - z) - (1 + cos(pi z)) / 2."""

    words = "along a mirrored cosine"

    def weight(self, done: float) -> float:
        """The height of the reflection."""
        weight = 2 * (1 - done) - (1 + math.cos(math.pi * done)) / 2
        return min(max(weight, 0.0), 1.0)


class OneMinusSqrt(Weighted):
    """The LR falls fast, then slowly: w = 1 - sqrt(z) (Hägele et al. 2024, arXiv 2405.18392)."""

    words = "as one minus a square root"

    def weight(self, done: float) -> float:
        """One less the root."""
        return 1 - math.sqrt(done)


class OneMinusSquare(Weighted):
    """The LR falls slowly, then fast: w = 1 - z^2 (Hägele et al. 2024, arXiv 2405.18392)."""

    words = "as one minus a square"

    def weight(self, done: float) -> float:
        """One less the square."""
        return 1 - done * done


class Polynomial(Weighted):
    """The LR falls as a power of what is left: w = (1 - z)^power."""

    words = "as a power of what was left"
    defaults = (2.0,)

    def __init__(self, *parameters: float) -> None:
        """Takes the power. Raises: ValueError: it is not above zero, or there are more parameters."""
        count_at_most(parameters, 1, "polynomial(power)")
        (self._power,) = parameters
        if self._power <= 0:
            raise ValueError(f"polynomial: power {self._power:g} is not above 0")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The power."""
        return (self._power,)

    def weight(self, done: float) -> float:
        """The power of what is left."""
        return float((1 - done) ** self._power)


class Rex(Weighted):
    """The LR stays high for longer than on a line: w = (1 - z) / (1/2 + (1 - beta z) / 2).

    Chen, Wolfe, Kyrillidis 2022, "REX: Revisiting budgeted training with an improved schedule", arXiv 2107.04197, have
    beta = 1; the code that circulates has 0.9. With beta = 0 it is a line, and near 2 it hardly falls before the end.
    """

    words = "along REX"
    defaults = (1.0,)

    def __init__(self, *parameters: float) -> None:
        """Takes beta. Raises: ValueError: it is below 0, or 2 or more, or there are more parameters."""
        count_at_most(parameters, 1, "rex(beta)")
        (self._beta,) = parameters
        if not 0 <= self._beta < 2:
            raise ValueError(f"rex: beta {self._beta:g} is not from 0 to below 2; at 2 it would be constant")

    @property
    def parameters(self) -> tuple[float, ...]:
        """Beta."""
        return (self._beta,)

    def weight(self, done: float) -> float:
        """The reflection of an exponential decay."""
        return (1 - done) / (0.5 + 0.5 * (1 - self._beta * done))


class HalfLife(Weighted):
    """The LR halves `lives` times, and doesn't reach `end`: w = 0.5^(lives z).

    It is the cooldown of MiniCPM (Hu et al. 2024, arXiv 2404.06395).
    """

    words = "by halves"
    defaults = (4.0,)

    def __init__(self, *parameters: float) -> None:
        """Takes the number of half-lives. Raises: ValueError: it is not above zero, or there are more parameters."""
        count_at_most(parameters, 1, "half_life(lives)")
        (self._lives,) = parameters
        if self._lives <= 0:
            raise ValueError(f"half_life: {self._lives:g} lives are not above 0")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The number of half-lives."""
        return (self._lives,)

    def weight(self, done: float) -> float:
        """What the halves have left."""
        return float(0.5 ** (self._lives * done))


class PowerScheduler(Weighted):
    """The LR stands for a share of the steps, then falls as a power of them: w = min(1, (z / share)^-exponent).

    Shen et al. 2024, "Power scheduler: a batch size and token number agnostic learning rate scheduler", arXiv
    2408.13359, without its decay at the end. It doesn't reach `end`.
    """

    words = "as a power of the steps"
    defaults = (0.1, 0.51)

    def __init__(self, *parameters: float) -> None:
        """Takes the share and the exponent. Raises: ValueError: one of them is out of its range."""
        count_at_most(parameters, 2, "power_scheduler(share, exponent)")
        self._share, self._exponent = parameters
        between(self._share, 0.0, 1.0, "power_scheduler: share")
        at_least(self._exponent, 0.0, "power_scheduler: exponent")
        if self._share == 0:
            raise ValueError("power_scheduler: a share of 0 has no LR that it falls from")

    @property
    def parameters(self) -> tuple[float, ...]:
        """The share and the exponent."""
        return self._share, self._exponent

    def weight(self, done: float) -> float:
        """The power, at most one."""
        return 1.0 if done <= self._share else float((done / self._share) ** -self._exponent)
