"""How the LR and Adam's constants follow the batch size.

Notation: kappa, the new batch size over the old one.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

ROUNDING = 1e-9
"""A beta that comes out as low as this is zero."""


class BatchScaling(enum.StrEnum):
    """How the LR follows the batch size, as a first guess."""

    SQRT = "sqrt"
    """As its square root (Hoffer et al. 2017, arXiv 1705.08741; for Adam Malladi et al. 2022, arXiv 2205.10287)."""
    LINEAR = "linear"
    """In proportion (Goyal et al. 2017, arXiv 1706.02677)."""
    NONE = "none"

    @property
    def power(self) -> float:
        """The power of the batch size that the LR follows."""
        return {BatchScaling.SQRT: 0.5, BatchScaling.LINEAR: 1.0, BatchScaling.NONE: 0.0}[self]


class AdamConstants(NamedTuple):
    """What Adam has besides its LR."""

    beta1: float
    beta2: float
    eps: float


def lr_factor(kappa: float, scaling: BatchScaling | str = BatchScaling.SQRT) -> float:
    """What the LR is multiplied by.

    Args:
        kappa: the new batch size over the old one.
        scaling: "sqrt", "linear" or "none".

    Raises:
        ValueError: kappa is not above zero, or there is no such rule.
    """
    if not 0 < kappa < math.inf:
        raise ValueError(f"batch size: a ratio of {kappa!r} is not above 0")
    return math.pow(kappa, BatchScaling(scaling).power)


def scaled_adam(kappa: float, beta1: float, beta2: float, eps: float) -> AdamConstants:
    """Adam's constants for another batch size: 1 - beta becomes kappa (1 - beta), and eps becomes eps / sqrt(kappa).

    The LR goes with them as the square root, `lr_factor(kappa)` (Malladi, Lyu, Panigrahi, Arora 2022, "On the SDEs and
    scaling rules for adaptive gradient algorithms", arXiv 2205.10287).

    Raises:
        ValueError: kappa is not above zero, or so high that a beta would be zero or less, or a beta is none.
    """
    root = lr_factor(kappa, BatchScaling.SQRT)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise ValueError(f"batch size: {name} = {beta:g} is not from 0 to below 1")
        if kappa * (1 - beta) >= 1 - ROUNDING:
            raise ValueError(
                f"batch size: {kappa:g} times as large turns {name} = {beta:g} to {1 - kappa * (1 - beta):.3g}, and it "
                f"must be above 0; keep the betas, or change the batch size by less than {1 / (1 - beta):.3g}"
            )
    return AdamConstants(1 - kappa * (1 - beta1), 1 - kappa * (1 - beta2), eps / root)
