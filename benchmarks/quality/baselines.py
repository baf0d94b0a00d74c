"""The contestants that are not tuners of ours: schedules, plateau, LR finder, LR-free optimizers.

Every contestant is a function of (workload, lr, n_steps, seed). Those that choose an LR themselves are run once and
take no LR. All of them, the range test of the LR finder included, stay within `n_steps` optimizer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from dadaptation import DAdaptAdam, DAdaptSGD
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from benchmarks.quality.schedules import SHAPES, WARMUP, Shape, lr_at
from benchmarks.quality.training import Curve, set_lr, train, train_step
from benchmarks.quality.workloads import Session, Workload

RunWithLr = Callable[[Workload, float, int, int], Curve]
RunWithoutLr = Callable[[Workload, int, int], Curve]


@dataclass(frozen=True)
class Contestant:
    """Something that trains a workload from (workload, lr, n_steps, seed); `lrs` are the LRs to try it with."""

    name: str
    run: Callable[[Workload, float | None, int, int], Curve]
    takes_lr: bool

    def lrs(self, workload: Workload) -> tuple[float | None, ...]:
        """The LRs that the grid tries: the workload's, or a single None."""
        return workload.lr_grid if self.takes_lr else (None,)


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


def _run_shape(shape: Shape, workload: Workload, lr: float, n_steps: int, seed: int) -> Curve:
    return train(workload.build(seed), n_steps, ShapedLr(shape, lr, n_steps))


def _run_plateau(workload: Workload, lr: float, n_steps: int, seed: int) -> Curve:
    return train(workload.build(seed), n_steps, PlateauLr(lr, n_steps))


# The range test's length and its stopping rule, as in fastai and PyTorch Lightning (4 times the best smoothed loss).
_FINDER_STEPS = 100
_FINDER_BLOW_UP = 4.0
_FINDER_SMOOTHING = 0.9


def find_lr(workload: Workload, seed: int) -> float:
    """LR range test (Smith 2017): where the smoothed training loss falls fastest as the LR grows.

    The LR grows geometrically through the workload's range, on a throw-away copy of the run.
    """
    session = workload.build(seed)
    batches = session.batches()
    lrs = np.geomspace(*workload.lr_range, _FINDER_STEPS)
    smoothed: list[float] = []
    average = 0.0
    for n_before, lr in enumerate(lrs):
        set_lr(session.optimizer, float(lr))
        loss = train_step(session, next(batches))
        average = _FINDER_SMOOTHING * average + (1 - _FINDER_SMOOTHING) * loss
        smoothed.append(average / (1 - _FINDER_SMOOTHING ** (n_before + 1)))
        if not smoothed[-1] <= _FINDER_BLOW_UP * min(smoothed):  # true for NaN as well
            smoothed.pop()
            break
    # The first losses are hardly smoothed and their differences are noise.
    skipped = min(10, len(smoothed) - 2)
    slopes = np.gradient(np.array(smoothed))
    return float(lrs[skipped + int(np.argmin(slopes[skipped:]))])


def _run_lr_finder(workload: Workload, n_steps: int, seed: int) -> Curve:
    if n_steps <= _FINDER_STEPS:
        raise ValueError(f"the range test alone takes {_FINDER_STEPS} of {n_steps} steps")
    lr = find_lr(workload, seed)
    curve = _run_shape(SHAPES["cosine"], workload, lr, n_steps - _FINDER_STEPS, seed)
    return replace(
        curve,
        search_steps=_FINDER_STEPS,
        peak_lr=lr,
        val_steps=[step + _FINDER_STEPS for step in curve.val_steps],
    )


def _weight_decay(workload: Workload, model: nn.Module) -> float:
    return float(workload.optimizer(model).param_groups[0]["weight_decay"])


def _run_prodigy(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Prodigy (Mishchenko & Defazio 2024): LR 1 under cosine annealing, warm-up safeguarded, as its README asks."""

    def optimizer(model: nn.Module) -> Optimizer:
        prodigy: Optimizer = Prodigy(
            model.parameters(),
            lr=1.0,
            weight_decay=_weight_decay(workload, model),
            safeguard_warmup=True,
        )
        return prodigy

    session = workload.build(seed, optimizer)
    return train(session, n_steps, ShapedLr(SHAPES["cosine"], 1.0, n_steps))


def _run_dadaptation(workload: Workload, n_steps: int, seed: int) -> Curve:
    """D-Adaptation (Defazio & Mishchenko 2023): LR 1 times the usual schedule, in the flavour of the base optimizer."""

    def optimizer(model: nn.Module) -> Optimizer:
        base = workload.optimizer(model)
        decay = float(base.param_groups[0]["weight_decay"])
        if isinstance(base, torch.optim.SGD):
            momentum = float(base.param_groups[0]["momentum"])
            adapted: Optimizer = DAdaptSGD(model.parameters(), lr=1.0, momentum=momentum, weight_decay=decay)
        else:
            adapted = DAdaptAdam(model.parameters(), lr=1.0, weight_decay=decay, decouple=True)
        return adapted

    session = workload.build(seed, optimizer)
    return train(session, n_steps, ShapedLr(SHAPES["linear"], 1.0, n_steps))


# Default of `AdamWScheduleFree`, which has a warm-up of its own.
_SCHEDULE_FREE_LR = 0.0025
# Its README: refresh the statistics of batch normalisation at the averaged weights; 50 batches there.
_SCHEDULE_FREE_REFRESH = 50


@contextmanager
def _averaged(session: Session) -> Iterator[None]:
    """The averaged weights of a schedule-free optimizer."""
    assert isinstance(session.optimizer, AdamWScheduleFree)
    session.optimizer.eval()
    if any(isinstance(module, nn.BatchNorm2d) for module in session.model.modules()):
        batches = session.batches()
        with torch.no_grad():
            for _ in range(_SCHEDULE_FREE_REFRESH):
                session.loss(next(batches))
    yield
    session.optimizer.train()


def _run_schedule_free(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Schedule-Free AdamW (Defazio et al. 2024) with its default LR and betas."""

    def optimizer(model: nn.Module) -> Optimizer:
        schedule_free: Optimizer = AdamWScheduleFree(
            model.parameters(),
            lr=_SCHEDULE_FREE_LR,
            weight_decay=_weight_decay(workload, model),
            warmup_steps=round(WARMUP * n_steps),
        )
        return schedule_free

    session = workload.build(seed, optimizer)
    assert isinstance(session.optimizer, AdamWScheduleFree)
    session.optimizer.train()
    constant = ShapedLr(lambda _p: 1.0, _SCHEDULE_FREE_LR, n_steps)
    return train(session, n_steps, constant, _averaged)


def _tuned(name: str, run: RunWithLr) -> Contestant:
    def with_lr(workload: Workload, lr: float | None, n_steps: int, seed: int) -> Curve:
        if lr is None:
            raise ValueError(f"{name} needs an LR")
        return run(workload, lr, n_steps, seed)

    return Contestant(name, with_lr, takes_lr=True)


def _lr_free(name: str, run: RunWithoutLr) -> Contestant:
    def without_lr(workload: Workload, lr: float | None, n_steps: int, seed: int) -> Curve:
        if lr is not None:
            raise ValueError(f"{name} chooses its LR itself")
        return run(workload, n_steps, seed)

    return Contestant(name, without_lr, takes_lr=False)


# In the order in which the grid runs them.
CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        *(_tuned(name, partial(_run_shape, shape)) for name, shape in SHAPES.items()),
        _tuned("plateau", _run_plateau),
        _lr_free("lr_finder", _run_lr_finder),
        _lr_free("prodigy", _run_prodigy),
        _lr_free("dadaptation", _run_dadaptation),
        _lr_free("schedule_free", _run_schedule_free),
    )
}
