"""Acquisition functions: how much an LR is worth trying. Larger is better; losses are minimised, signs flip only here.

Each takes the mixture over the surrogate's hyperparameters (k settings, m LRs) and returns one number per LR, so the
uncertainty about the hyperparameters counts as uncertainty. What the mean and the variance of the mixture alone say of
the value, for far less than the value itself takes, is which LRs can't have the highest one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from scipy import special

from tuner_server.core.search.gaussian_process.posterior import FloatArray, Moments, Posterior

_TAIL = -20.0
"""Above it h(u) is larger than 1e-91, and loses no more than three digits to cancellation."""

_ALL_BUT_HOPELESS = -5.0
"""A guess of the value needs no lower u."""

_ROUNDED_UP = 1.0 + 2.0**-50
"""Twice what rounding may take from a sum of two numbers, as a part of the larger one."""

_BOUND_SLACK = 1e-9
"""A bound may be wrong by so much, as a part of an improvement, where rounding has made it so."""


class Acquisition(Protocol):
    """Ranks LRs by their posterior."""

    @property
    def name(self) -> str:
        """What it is called, in the words that pages show."""
        ...

    @property
    def kappa(self) -> float | None:
        """The weight of the uncertainty; None: it has no such constant."""
        ...

    @property
    def uses_best(self) -> bool:
        """Whether the lowest loss known makes a difference; if not, it may be NaN."""
        ...

    @property
    def bound_is_value(self) -> bool:
        """Whether the value is as high as the bound everywhere."""
        ...

    def likely(self, mean: float, variance: float, best: float) -> float:
        """About the value of trying an LR where the mixture has this mean and this variance."""
        ...

    def at_most(self, moments: Moments, best: float) -> FloatArray:
        """[m] bounds: the value of trying each LR is no higher; `best` is the lowest loss known, in loss units."""
        ...

    def evaluate(self, posterior: Posterior, best: float) -> FloatArray:
        """[m] the value of trying each LR."""
        ...


@dataclass(frozen=True)
class LowerConfidenceBound:
    """How low the loss may plausibly be: -(mean - kappa * sd).

    Attributes:
        kappa: Weight of the uncertainty; AutoLRS's published code has 1e6, which is pure exploration.
    """

    kappa: float = 2.0
    name: ClassVar[str] = "lower confidence bound, sign turned"
    uses_best: ClassVar[bool] = False
    bound_is_value: ClassVar[bool] = True

    def likely(self, mean: float, variance: float, best: float) -> float:
        """In loss units; `best` makes no difference."""
        return self.kappa * math.sqrt(variance) - mean

    def at_most(self, moments: Moments, best: float) -> FloatArray:
        """[m] in loss units; `best` makes no difference."""
        return lower_confidence_bound(moments, self.kappa)

    def evaluate(self, posterior: Posterior, best: float) -> FloatArray:
        """[m] in loss units; `best` makes no difference."""
        return lower_confidence_bound(posterior.moments, self.kappa)


@dataclass(frozen=True)
class LogExpectedImprovement:
    """Logarithm of the expected improvement on the best loss."""

    name: ClassVar[str] = "log expected improvement"
    kappa: ClassVar[None] = None
    uses_best: ClassVar[bool] = True
    bound_is_value: ClassVar[bool] = False

    def likely(self, mean: float, variance: float, best: float) -> float:
        """Logarithm of a loss difference: what a single Gaussian would be worth, if it isn't all but hopeless."""
        sd = math.sqrt(variance)
        u = max((best - mean) / sd, _ALL_BUT_HOPELESS)
        density = math.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)
        return math.log(sd * (density + 0.5 * u * math.erfc(u * -math.sqrt(0.5))))

    def at_most(self, moments: Moments, best: float) -> FloatArray:
        """[m] logarithm of a loss difference."""
        return log_improvement_bound(moments, best)

    def evaluate(self, posterior: Posterior, best: float) -> FloatArray:
        """[m] logarithm of a loss difference."""
        return log_expected_improvement(posterior, best)


def lower_confidence_bound(moments: Moments, kappa: float) -> FloatArray:
    """[m] negated lower confidence bound (Cox and John, 1992) of the mixture's mean and standard deviation."""
    value = np.sqrt(moments.variance)
    value *= kappa
    value -= moments.mean
    return value


def log_improvement_bound(moments: Moments, best: float) -> FloatArray:
    """[m] the highest log E[max(best - f, 0)] that any f with these moments has.

    It is log ((sqrt(v + d^2) + d) / 2) with d = best - mean (Scarf, 1958), and a little more, for what rounding did.
    Where the sum cancels, at means far above the best, that is most of it.
    """
    d = best - moments.mean
    value = d * d
    value += moments.variance
    value += moments.rounding
    np.sqrt(value, value)
    value *= _ROUNDED_UP
    value += d
    np.log(value, value)
    value += _BOUND_SLACK - math.log(2.0)
    return value


def log_expected_improvement(posterior: Posterior, best: float) -> FloatArray:
    """[m] log E[max(best - f, 0)] under the mixture.

    For a Gaussian it is log h(u) + log sd with u = (best - mean) / sd (Ament et al., 2023, equation 9); for the mixture
    the expectations, not their logarithms, are averaged. Where no Gaussian has a u above `_TAIL`, their logarithms are
    what is added up, since h would underflow.
    """
    sd = np.sqrt(posterior.variance)
    u = best - posterior.mean
    u /= sd
    improvement = h(u)
    improvement *= sd
    expected = posterior.weight @ improvement
    # An expectation is no larger than the largest sd times h at its highest u, and h(`_TAIL`) is below 1e-89.
    if np.minimum.reduce(expected) > 1e-89 * np.maximum.reduce(sd, None):
        return np.log(expected, expected)
    hopeless = (np.maximum.reduce(u, 0) < _TAIL).nonzero()[0]
    expected[hopeless] = 1.0
    value: FloatArray = np.log(expected, expected)
    terms = log_h_tail(u.take(hopeless, 1))
    terms += np.log(sd.take(hopeless, 1) * posterior.weight[:, None])
    largest = np.maximum.reduce(terms, 0)
    terms -= largest
    value[hopeless] = largest + np.log(np.add.reduce(np.exp(terms, terms), 0))
    return value


def h(u: FloatArray) -> FloatArray:
    """phi(u) + u Phi(u), which loses digits to cancellation as u falls: three of them at `_TAIL`."""
    value: FloatArray = special.ndtr(u)
    value *= u
    density = u * u
    density *= -0.5
    np.exp(density, density)
    density *= 1.0 / math.sqrt(2.0 * math.pi)
    value += density
    return value


def log_h_tail(u: FloatArray) -> FloatArray:
    """log(phi(u) + u Phi(u)) for u at or below `_TAIL`, to ten digits, by the asymptotic series of Phi.

    Phi(u) = phi(u) / |u| (1 - u^-2 + 3 u^-4 - 15 u^-6 + ...) (Abramowitz and Stegun, 1964, equation 26.2.12), so that
    h(u) = phi(u) u^-2 (1 - 3 u^-2 + 15 u^-4 - 105 u^-6 + ...).
    """
    square = u * u
    inverse = 1.0 / square
    series = np.full_like(u, -10395.0)
    for coefficient in (945.0, -105.0, 15.0, -3.0, 1.0):
        series *= inverse
        series += coefficient
    series *= inverse
    value: FloatArray = np.log(series, series)
    square *= 0.5
    value -= square
    value -= 0.5 * math.log(2.0 * math.pi)
    return value
