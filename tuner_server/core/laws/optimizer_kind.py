"""The two kinds of optimizers whose schedules are refined in two ways; apart, as it needs neither NumPy nor SciPy."""

from __future__ import annotations

import enum


class OptimizerKind(enum.StrEnum):
    """The two kinds of optimizers that the weights of steps differ for."""

    SGD = "sgd"
    """SGD, with momentum or without."""
    ADAM = "adam"
    """Adam and its relatives, which divide by the size of the gradients."""

    @property
    def power(self) -> int:
        """The p of the weights."""
        return 2 if self is OptimizerKind.SGD else 1

    @property
    def measure(self) -> str:
        """The name of the measure that the weights are made of."""
        return "gradient_norm" if self is OptimizerKind.SGD else "gradient_l1_norm"
