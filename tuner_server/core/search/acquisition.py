"""Acquisition functions: how much an LR is worth trying. Larger is better; losses are minimised, signs flip only here.

Each takes the mixture over the surrogate's hyperparameters (k settings, m LRs) and returns one number per LR, so the
uncertainty about the hyperparameters counts as uncertainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from scipy import special

from tuner_server.core.search.surrogate import FloatArray, Posterior

_DIRECT = -20.0
"""Above it h(u) is larger than 1e-90, and loses no more than three digits to cancellation."""


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

    def evaluate(self, posterior: Posterior, best: float) -> FloatArray:
        """[m] the value of trying each LR; `best` is the lowest loss known, in loss units."""
        ...


@dataclass(frozen=True)
class LowerConfidenceBound:
    """How low the loss may plausibly be: -(mean - kappa * sd).

    Attributes:
        kappa: Weight of the uncertainty; AutoLRS's published code has 1e6, which is pure exploration.
    """

    kappa: float = 2.0
    name: ClassVar[str] = "lower confidence bound, sign turned"

    def evaluate(self, posterior: Posterior, best: float) -> FloatArray:
        """[m] in loss units; `best` makes no difference."""
        return lower_confidence_bound(posterior, self.kappa)


@dataclass(frozen=True)
class LogExpectedImprovement:
    """Logarithm of the expected improvement on the best loss."""

    name: ClassVar[str] = "log expected improvement"
    kappa: ClassVar[None] = None

    def evaluate(self, posterior: Posterior, best: float) -> FloatArray:
        """[m] logarithm of a loss difference."""
        return log_expected_improvement(posterior, best)


def lower_confidence_bound(posterior: Posterior, kappa: float) -> FloatArray:
    """[m] negated lower confidence bound (Cox and John, 1992) of the mixture's mean and standard deviation."""
    return kappa * np.sqrt(posterior.mixture_variance) - posterior.mixture_mean


def log_expected_improvement(posterior: Posterior, best: float) -> FloatArray:
    """[m] log E[max(best - f, 0)] under the mixture.

    For a Gaussian it is log h(u) + log sd with h(u) = phi(u) + u Phi(u) and u = (best - mean) / sd (Ament et al., 2023,
    equation 9); for the mixture the expectations, not their logarithms, are averaged. Where no Gaussian has a u above
    `_DIRECT`, logarithms are added, as h would underflow.
    """
    sd = np.sqrt(posterior.variance)
    u = best - posterior.mean
    u /= sd
    density = u * u
    density *= -0.5
    np.exp(density, density)
    density *= 1.0 / math.sqrt(2.0 * math.pi)
    improvement = special.ndtr(u)
    improvement *= u
    improvement += density
    improvement *= sd
    expected = posterior.weight @ improvement
    hopeless = (np.maximum.reduce(u, 0) < _DIRECT).nonzero()[0]
    if not len(hopeless):
        return np.log(expected, expected)
    expected[hopeless] = 1.0
    value: FloatArray = np.log(expected, expected)
    terms = log_h(u[:, hopeless]) + np.log(sd[:, hopeless]) + np.log(posterior.weight)[:, None]
    value[hopeless] = special.logsumexp(terms, axis=0)
    return value


def log_h(u: FloatArray) -> FloatArray:
    """log(phi(u) + u Phi(u)), accurate for all |u| < 1e100 (Ament et al., 2023, equation 10 and appendix A.1)."""
    log_density = -0.5 * (u * u + math.log(2.0 * math.pi))
    upper = np.maximum(u, -1.0)
    lower = -np.clip(u, -1e4, -1.0)
    # h = phi (1 - |u| Phi / phi), and Phi / phi is a scaled complementary error function: no underflow. The bracket
    # loses digits as it falls off like u^-2; beyond 1e4 that power itself is the better approximation.
    bracket = np.log1p(-lower * math.sqrt(math.pi / 2.0) * special.erfcx(lower / math.sqrt(2.0)))
    tail = log_density + np.where(u > -1e4, bracket, -2.0 * np.log(np.maximum(np.abs(u), 1.0)))
    density = np.exp(-0.5 * (upper * upper + math.log(2.0 * math.pi)))
    value: FloatArray = np.where(u > -1.0, np.log(density + upper * special.ndtr(upper)), tail)
    return value
