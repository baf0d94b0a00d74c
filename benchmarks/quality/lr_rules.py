"""Rules for the LR of a run: a fixed shape, and two that watch the validation loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

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


class GreedyLr:
    """GreedyLR (arXiv 2512.14527) with the defaults that it has in Hugging Face's Transformers.

    The LR is divided by `factor` after more than `patience` improvements in a row, and multiplied by it after more
    than `patience` failures. It is fed with the validation loss, as the Trainer does: its `lr_scheduler_type="greedy"`
    asks for an evaluation strategy and steps once an evaluation.

    Left out: smoothing, which is off by default, and the reset after 500 reductions at `min_lr`, for which 40
    validations are too few.
    """

    def __init__(
        self,
        lr: float,
        *,
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float = 1e-3,
        max_lr: float = 1.0,
    ) -> None:
        """Begins at `lr`.

        Args:
            lr: The first LR.
            factor: Below 1.
            patience: Validations in a row that change nothing yet.
            threshold: How far a loss must lie below the best one to improve on it.
            cooldown: Validations without a look after a reduction.
            warmup: Validations without a look after an increase.
            min_lr: No reduction goes below it.
            max_lr: No increase goes above it.
        """
        self._lr = lr
        self._factor = factor
        self._patience = patience
        self._threshold = threshold
        self._cooldown = cooldown
        self._warmup = warmup
        self._min_lr = min_lr
        self._max_lr = max_lr
        self._best = math.inf
        self._n_good = 0
        self._n_bad = 0
        self._n_blind = 0

    def lr(self, _step: int) -> float:
        return self._lr

    def observe(self, val_loss: float) -> None:
        if self._n_blind:
            self._n_blind -= 1
            self._n_good = self._n_bad = 0
            return
        if val_loss < self._best - self._threshold:
            self._best, self._n_good, self._n_bad = val_loss, self._n_good + 1, 0
        else:
            self._n_good, self._n_bad = 0, self._n_bad + 1
        if self._n_good > self._patience:
            self._lr = max(self._lr, min(self._lr / self._factor, self._max_lr))
            self._n_good, self._n_blind = 0, self._warmup
        elif self._n_bad > self._patience:
            self._lr = min(self._lr, max(self._lr * self._factor, self._min_lr))
            self._n_bad, self._n_blind = 0, self._cooldown
