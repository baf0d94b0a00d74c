"""AdaLRS, which searches the peak LR on the run itself by slopes of its training loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.quality.schedules import SHAPES, WARMUP, lr_at
from benchmarks.quality.training import Curve, nominal_lr, train
from benchmarks.quality.workloads import Session, Workload

UP = 3.0
DOWN = 0.5
SHRINKAGE = 0.99
"""After n tries, both factors are taken to the power of this to the n."""
WINDOW = 0.02
"""Share of the run over which a slope is measured."""
SEARCH = 0.3
"""Share of the run after which the peak stays as it is."""


def descent(losses: list[float]) -> float:
    """How fast losses fall, per step: minus the slope of their least-squares line."""
    return -float(np.polyfit(np.arange(len(losses)), losses, 1)[0])


@dataclass(frozen=True)
class _Try:
    """A window at a higher peak, and what it is to beat."""

    peak_lr: float
    descent: float
    losses: list[float]
    model: dict[str, Any]
    optimizer: dict[str, Any]

    def jumped(self, loss: float) -> bool:
        """Whether a loss lies above all of the window before by more than they differ among themselves."""
        highest = max(self.losses)
        return not loss <= highest + (highest - min(self.losses))


class AdaLrs:
    """AdaLRS (Dong et al. 2025, arXiv 2506.13274) under cosine decay.

    When the loss falls more slowly in a window than in the one before, a window at a higher peak is tried. If the
    loss falls no faster there, or jumps, model and optimizer go back to where they were before it, and the peak is
    lowered instead. All these steps count. The paper has no code, and its factors and windows are not known to us:
    the constants of this module are ours, and so is the test for a jump.
    """

    def __init__(self, session: Session, lr: float, n_steps: int) -> None:
        """Begins at a peak of `lr`, for a run of `session` over `n_steps` steps."""
        self._session = session
        self._n_steps = n_steps
        self._window = max(2, round(WINDOW * n_steps))
        self._step = 0
        self._losses: list[float] = []
        self._before: tuple[float, list[float]] | None = None
        self._try: _Try | None = None
        self._n_tries = 0
        self.peak_lr = lr
        self.n_undone = 0
        """Steps that were gone back on."""

    def lr(self, step: int) -> float:
        return lr_at(SHAPES["cosine"], self.peak_lr, step, self._n_steps)

    def observe(self, val_loss: float) -> None:
        """Validation losses play no part."""

    def trained(self, loss: float) -> None:
        """Takes note of a step's training loss; may change the peak, and put model and optimizer back."""
        self._step += 1
        if self._step <= WARMUP * self._n_steps or (self._try is None and not self._has_room):
            return
        self._losses.append(loss)
        if self._try and self._try.jumped(loss):
            self._undo(self._try)
        elif len(self._losses) == self._window:
            self._judge()

    @property
    def _has_room(self) -> bool:
        """Whether another window fits into the search."""
        return self._step - len(self._losses) + self._window <= SEARCH * self._n_steps

    def _judge(self) -> None:
        """Weighs a full window."""
        own, losses, self._losses = descent(self._losses), self._losses, []
        if self._try and not own > self._try.descent:
            self._losses = losses
            self._undo(self._try)
            return
        slower = self._try is None and self._before is not None and own < self._before[0]
        self._try = None
        self._before = (own, losses)
        if slower and self._has_room:
            self._begin(own, losses)

    def _begin(self, own: float, losses: list[float]) -> None:
        model, optimizer = self._session.model.state_dict(), self._session.optimizer.state_dict()
        self._try = _Try(self.peak_lr, own, losses, copy.deepcopy(model), copy.deepcopy(optimizer))
        self.peak_lr *= self._shrunk(UP)
        self._n_tries += 1

    def _undo(self, failed: _Try) -> None:
        self._session.model.load_state_dict(failed.model)
        self._session.optimizer.load_state_dict(failed.optimizer)
        self.peak_lr = failed.peak_lr * self._shrunk(DOWN)
        self.n_undone += len(self._losses)
        self._losses, self._before, self._try = [], None, None

    def _shrunk(self, factor: float) -> float:
        return float(factor ** (SHRINKAGE**self._n_tries))


def run_adalrs(workload: Workload, n_steps: int, seed: int) -> Curve:
    """AdaLRS from the LR that the workload's optimizer carries."""
    session = workload.build(seed)
    rule = AdaLrs(session, nominal_lr(session), n_steps)
    curve = train(session, n_steps, rule, trained=rule.trained)
    return replace(curve, search_steps=rule.n_undone, peak_lr=rule.peak_lr)
