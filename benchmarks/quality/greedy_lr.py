"""GreedyLR, which raises the LR while validations improve and lowers it while they don't."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class GreedySettings:
    """What GreedyLR is told; the defaults are those of Hugging Face's Transformers.

    Attributes:
        factor: The LR is divided by it, or multiplied; below 1.
        patience: Validations in a row that change nothing yet.
        threshold: How far a loss must lie below the best one to improve on it.
        cooldown: Validations without a look after a reduction.
        warmup: Validations without a look after an increase.
        min_lr: No reduction goes below it, and none raises an LR that lies below.
        max_lr: No increase goes above it, and none lowers an LR that lies above.
        smoothed: Losses of the latest validations whose mean is looked at; 1 is no smoothing.
        n_before_reset: Reductions to `min_lr`, or at it, after which all begins again. An increase starts the count
            anew.
    """

    factor: float = 0.95
    patience: int = 10
    threshold: float = 1e-6
    cooldown: int = 0
    warmup: int = 0
    min_lr: float = 1e-3
    max_lr: float = 1.0
    smoothed: int = 1
    n_before_reset: int = 500


DEFAULTS = GreedySettings()
LEAST_CHANGE = 1e-8
"""A smaller one is not made."""


class GreedyLr:
    """GreedyLR (arXiv 2512.14527), a two-sided `ReduceLROnPlateau`.

    The LR is divided by the factor after more than `patience` improvements in a row, and multiplied by it after more
    than `patience` failures. It is fed with the validation loss, as the Trainer of Transformers does: its
    `lr_scheduler_type="greedy"` asks for an evaluation strategy and steps once an evaluation.
    """

    def __init__(self, lr: float, settings: GreedySettings = DEFAULTS) -> None:
        """Begins at `lr`."""
        self._first_lr = lr
        self._settings = settings
        self._begin()

    def _begin(self) -> None:
        self._lr = self._first_lr
        self._best = math.inf
        self._latest: deque[float] = deque(maxlen=self._settings.smoothed)
        self._n_good = self._n_bad = self._n_blind = self._n_at_lowest = 0

    def lr(self, _step: int) -> float:
        return self._lr

    def observe(self, val_loss: float) -> None:
        self._latest.append(val_loss)
        if self._n_blind:
            self._n_blind -= 1
            self._n_good = self._n_bad = 0
            return
        loss = statistics.fmean(self._latest)
        if loss < self._best - self._settings.threshold:
            self._best, self._n_good, self._n_bad = loss, self._n_good + 1, 0
        else:
            self._n_good, self._n_bad = 0, self._n_bad + 1
        if self._n_good > self._settings.patience:
            self._raise()
        elif self._n_bad > self._settings.patience:
            self._reduce()

    def _raise(self) -> None:
        self._go_to(max(self._lr, min(self._lr / self._settings.factor, self._settings.max_lr)))
        self._n_good, self._n_blind, self._n_at_lowest = 0, self._settings.warmup, 0

    def _reduce(self) -> None:
        self._go_to(min(self._lr, max(self._lr * self._settings.factor, self._settings.min_lr)))
        self._n_at_lowest += self._lr <= self._settings.min_lr
        if self._n_at_lowest >= self._settings.n_before_reset:
            self._begin()
        self._n_bad, self._n_blind = 0, self._settings.cooldown

    def _go_to(self, lr: float) -> None:
        if abs(lr - self._lr) > LEAST_CHANGE:
            self._lr = lr
