"""Policy `budget` on an optimizer that carries an LR which its user has tuned.

The range stays the workload's: what is measured is whether the run does as well as `linear` with that LR.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from benchmarks.quality.contestant import tuned
from benchmarks.quality.training import Curve, set_lr
from benchmarks.quality.tuners import VARIANTS
from benchmarks.quality.workloads import Workload

USERS_LR = "budget, user's LR"


def carrying(workload: Workload, lr: float) -> Workload:
    """`workload` whose optimizer carries `lr`."""

    def optimizer(model: nn.Module) -> Optimizer:
        made = workload.optimizer(model)
        set_lr(made, lr)
        return made

    return replace(workload, optimizer=optimizer)


def _run(workload: Workload, lr: float, n_steps: int, seed: int) -> Curve:
    return VARIANTS["budget, ending zero"].run(carrying(workload, lr), None, n_steps, seed)


CONTESTANT = tuned(USERS_LR, _run)
