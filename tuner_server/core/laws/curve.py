"""Losses that were seen along a path of LRs, as laws are fitted to them."""

from __future__ import annotations

import dataclasses

import numpy as np

from tuner_server.core.laws.lr_path import FloatArray, LrPath


class UnfittableError(ValueError):
    """Losses tell too little for a law to be fitted to them; the message says what is missing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Losses that were seen along a path of LRs."""

    path: LrPath
    steps: FloatArray
    """(n,) the steps of the losses, within the path."""
    losses: FloatArray
    """(n,) one at each step: validations, or training losses averaged over windows."""

    def walked(self) -> FloatArray:
        """(n,) S1 at the losses."""
        return np.interp(self.steps, self.path.steps, self.path.area())

    def annealed(self, momentum: float, *, falls_only: bool = False) -> FloatArray:
        """(n,) S2 at the losses."""
        return np.interp(self.steps, self.path.steps, self.path.annealing_area(momentum, falls_only=falls_only))

    def thinned(self, most: int) -> Curve:
        """The curve with at most so many losses, evenly spread, the first and the last among them."""
        n = self.steps.size
        if n <= max(most, 2):
            return self
        kept = np.unique(np.linspace(0, n - 1, max(most, 2)).round().astype(np.int64))
        return Curve(self.path, self.steps[kept], self.losses[kept])

    def refuse_unfit(self) -> None:
        """Refuses losses that no law can be fitted to.

        Raises:
            UnfittableError: a step has no loss, or a loss is not finite, or lies outside of the path or before any LR.
        """
        if self.steps.shape != self.losses.shape:
            raise UnfittableError(f"{self.steps.size} steps have {self.losses.size} losses: each step needs one")
        if not self.steps.size:
            return
        if not np.isfinite(self.losses).all():
            raise UnfittableError("a loss is not finite: leave those out that are not")
        if not (self.steps.min() >= 0 and self.steps.max() <= self.path.end):
            raise UnfittableError(f"a loss lies outside of its path of {self.path.end + 1} steps")
        if self.walked().min() <= 0:
            raise UnfittableError("the LR is 0 up to one of the losses: leave out what comes before the first step")
