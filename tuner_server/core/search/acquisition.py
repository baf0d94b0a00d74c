"""Acquisition functions: how much an LR is worth trying. Larger is better; losses are minimised, signs flip only here.

Each takes the mixture over the surrogate's hyperparameters (k settings, m LRs) and returns one number per LR, so the
uncertainty about the hyperparameters counts as uncertainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from botorch.utils.probability.utils import log_phi, ndtr, phi
from torch import Tensor

from tuner_server.core.search.surrogate import FloatArray, Posterior


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
    return kappa * np.sqrt(posterior.mixture_variance()) - posterior.mixture_mean()


@torch.no_grad()
def log_expected_improvement(posterior: Posterior, best: float) -> FloatArray:
    """[m] log E[max(best - f, 0)] under the mixture.

    For a Gaussian it is log h(u) + log sd with u = (best - mean) / sd (Ament et al., 2023, equation 9); for the mixture
    the expectations, not their logarithms, are averaged.
    """
    sd = torch.from_numpy(posterior.variance).sqrt()
    u = (best - torch.from_numpy(posterior.mean)) / sd
    weight = torch.from_numpy(posterior.weight).unsqueeze(-1)
    value: FloatArray = torch.logsumexp(log_h(u) + sd.log() + weight.log(), dim=0).numpy()
    return value


def log_h(u: Tensor) -> Tensor:
    """log(phi(u) + u Phi(u)), accurate for all |u| < 1e100 (Ament et al., 2023, equation 10 and appendix A.1)."""
    upper = u.clamp_min(-1.0)
    lower = u.clamp(-1e4, -1.0).abs()
    # h = phi (1 - |u| Phi / phi), and Phi / phi is a scaled complementary error function: no underflow. The bracket
    # loses digits as it falls off like u^-2; beyond 1e4 that power itself is the better approximation.
    bracket = torch.log1p(-lower * math.sqrt(math.pi / 2.0) * torch.special.erfcx(lower / math.sqrt(2.0)))
    tail = log_phi(u) + torch.where(u > -1e4, bracket, -2.0 * u.abs().log())
    return torch.where(u > -1.0, (phi(upper) + upper * ndtr(upper)).log(), tail)
