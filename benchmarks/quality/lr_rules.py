"""Rules for the LR of a run: a fixed shape, and two of PyTorch's schedulers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from benchmarks.quality.schedules import WARMUP, Shape, lr_at


@dataclass(frozen=True)
class ShapedLr:
    """A fixed shape over the whole run."""

    shape: Shape
    peak_lr: float
    n_steps: int

    def lr(self, step: int) -> float:
        return lr_at(self.shape, self.peak_lr, step, self.n_steps)

    def observe(self, val_loss: float) -> None:
        """A fixed shape learns nothing."""


class PlateauLr:
    """Linear warm-up, then PyTorch's `ReduceLROnPlateau` on the validation loss.

    PyTorch's factor of 0.1. Its patience of 10 epochs would be a quarter of our validations; 3 leaves
    room for several cuts.
    """

    def __init__(self, peak_lr: float, n_steps: int) -> None:
        self._n_steps = n_steps
        # The scheduler acts on an optimizer of its own, so that the warm-up does not disturb it.
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak_lr)
        self._scheduler = ReduceLROnPlateau(self._optimizer, factor=0.1, patience=3)

    def lr(self, step: int) -> float:
        warmup = min(1.0, (step + 0.5) / (WARMUP * self._n_steps))
        return warmup * float(self._optimizer.param_groups[0]["lr"])

    def observe(self, val_loss: float) -> None:
        self._scheduler.step(val_loss)


class OneCycle:
    """PyTorch's `OneCycleLR` (Smith & Topin 2018, arXiv 1708.07120) with its defaults.

    The LR rises from a twenty-fifth of the peak over 30% of the steps, and falls to a 250,000th, both along a cosine;
    momentum, or the first beta, runs from 0.95 to 0.85 and back.
    """

    def __init__(self, optimizer: Optimizer, peak_lr: float, n_steps: int) -> None:
        """Acts on `optimizer` itself, for the sake of its momentum."""
        self._optimizer = optimizer
        self._scheduler = OneCycleLR(optimizer, max_lr=peak_lr, total_steps=n_steps)

    def lr(self, step: int) -> float:
        if step > 0:
            self._scheduler.step()
        return float(self._optimizer.param_groups[0]["lr"])

    def observe(self, val_loss: float) -> None:
        """A cycle learns nothing."""
