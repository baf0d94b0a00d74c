"""Schedule-Free optimizers, with their own LR and with the one that our search finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import nn
from torch.optim import Optimizer

from benchmarks.quality.contestant import by_name, lr_free
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.lr_rules import ShapedLr
from benchmarks.quality.schedules import WARMUP
from benchmarks.quality.training import Curve, nominal_lr, train, train_step, weight_decay
from benchmarks.quality.tuners import VARIANTS
from benchmarks.quality.workloads import Session, Workload

# Default of `AdamWScheduleFree`, which has a warm-up of its own.
_DEFAULT_LR = 0.0025
# Its README: refresh the statistics of batch normalisation at the averaged weights; 50 batches there.
_REFRESH = 50


@contextmanager
def _averaged(session: Session) -> Iterator[None]:
    """The averaged weights of a schedule-free optimizer."""
    assert isinstance(session.optimizer, AdamWScheduleFree | SGDScheduleFree)
    session.optimizer.eval()
    if any(isinstance(module, nn.BatchNorm2d) for module in session.model.modules()):
        batches = session.batches()
        with torch.no_grad():
            for _ in range(_REFRESH):
                session.loss(next(batches))
    yield
    session.optimizer.train()


def _adamw(model: nn.Module, lr: float, decay: float, n_steps: int) -> Optimizer:
    """Schedule-Free AdamW with its default betas."""
    made: Optimizer = AdamWScheduleFree(
        model.parameters(), lr=lr, weight_decay=decay, warmup_steps=round(WARMUP * n_steps)
    )
    return made


def _sgd(model: nn.Module, lr: float, decay: float, n_steps: int) -> Optimizer:
    """Schedule-Free SGD with its default momentum."""
    made: Optimizer = SGDScheduleFree(
        model.parameters(), lr=lr, weight_decay=decay, warmup_steps=round(WARMUP * n_steps)
    )
    return made


def _train(session: Session, lr: float, n_steps: int) -> Curve:
    assert isinstance(session.optimizer, AdamWScheduleFree | SGDScheduleFree)
    session.optimizer.train()
    return train(session, n_steps, ShapedLr(lambda _p: 1.0, lr, n_steps), _averaged)


def _run(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Schedule-Free AdamW (Defazio et al. 2024, arXiv 2405.15682) with its default LR."""

    def optimizer(model: nn.Module) -> Optimizer:
        return _adamw(model, _DEFAULT_LR, weight_decay(workload.optimizer(model)), n_steps)

    return _train(workload.build(seed, optimizer), _DEFAULT_LR, n_steps)


def _as_schedule_free(base: Optimizer, model: nn.Module, lr: float, n_steps: int) -> Optimizer:
    """Schedule-Free in the flavour of `base`, at an LR that is for `base`.

    Momentum m makes updates 1 / (1 - m) times as long as the LR says; Schedule-Free SGD has no such momentum, and its
    README recommends LRs that are 10 to 50 times as high as those of SGD.
    """
    if isinstance(base, torch.optim.SGD):
        return _sgd(model, lr / (1 - float(base.param_groups[0]["momentum"])), weight_decay(base), n_steps)
    return _adamw(model, lr, weight_decay(base), n_steps)


def _run_our_lr(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Schedule-Free, in the flavour of the base optimizer, with the peak LR that `budget` commits.

    The search runs on the base optimizer and is rolled back; Schedule-Free trains for the steps that are left.
    """
    session = workload.build(seed)
    transport = LocalTransport()
    tuner = VARIANTS["budget, ending zero"].tuner(session, workload, n_steps, seed, transport)
    tuner.search(session.batches(), lambda batch: train_step(session, batch))
    profile, n_left = transport.state.directive.profile, tuner.remaining_steps
    assert profile is not None
    assert n_left is not None
    tuner.close()
    session.optimizer = _as_schedule_free(session.optimizer, session.model, profile.start_lr, n_left)
    return _train(session, nominal_lr(session), n_left).after_search(tuner.search_steps, profile.start_lr)


CONTESTANTS = by_name(
    lr_free("schedule_free", _run),
    lr_free("schedule_free, our LR", _run_our_lr),
)
