"""DoG and DoWG, optimizers whose LR is a distance over gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.quality.vectors import gradients, norm


class DoG(Optimizer):
    """Distance over gradients (Ivgi et al. 2023, "DoG is SGD's best friend", arXiv 2302.12022).

    The LR of a step is the farthest that the weights have been from where they started, over the root of the sum of
    all squared gradient norms, this step's included. Use it with `averages.PolynomialAverage`.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float = 1.0, start: float = 1e-6, weight_decay: float = 0.0
    ) -> None:
        """Starts at the parameters as they are.

        Args:
            parameters: All are treated as one vector.
            lr: Factor on the LR; 1 is the method.
            start: The distance before the first step, in units of 1 + the norm of the weights. The paper recommends
                1e-4 with batch normalisation.
            weight_decay: L2 penalty, added to the gradients.
        """
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._parameters: list[Tensor] = self.param_groups[0]["params"]
        self._origin = [parameter.detach().clone() for parameter in self._parameters]
        self._distance = start * (1 + norm(self._origin))
        self._lr = 0.0
        self._squares = 0.0

    @property
    def step_size(self) -> float:
        """The LR of the last step; 0 while no gradient was other than zero."""
        return float(self.param_groups[0]["lr"]) * self._lr

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update. `closure` is not supported."""
        assert closure is None
        decay = self.param_groups[0]["weight_decay"]
        slopes = [g + decay * p for g, p in zip(gradients(self._parameters), self._parameters, strict=True)]
        travelled = [parameter - origin for parameter, origin in zip(self._parameters, self._origin, strict=True)]
        self._distance = max(self._distance, norm(travelled))
        self._lr = self._next_lr(norm(slopes))
        for parameter, slope in zip(self._parameters, slopes, strict=True):
            parameter.sub_(slope, alpha=self.step_size)

    def _next_lr(self, slope: float) -> float:
        """The LR of this step, whose gradient has that norm."""
        self._squares += slope**2
        return self._distance / math.sqrt(self._squares) if self._squares else 0.0


class DoWG(DoG):
    """Distance over weighted gradients (Khaled, Mishchenko & Jin 2023, "DoWG unleashed", arXiv 2305.16284).

    As `DoG`, but every squared norm counts by the square of the distance at its step, and their root divides the
    square of the distance: what was met near the start weighs little.
    """

    def _next_lr(self, slope: float) -> float:
        squared = self._distance**2
        self._squares += squared * slope**2
        return squared / math.sqrt(self._squares) if self._squares else 0.0
