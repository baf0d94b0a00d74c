"""How far an optimizer moves a weight in its first updates, found by letting a fresh one of its kind do so.

Momentum gathers over its first updates, and a mean of squared gradients that is not corrected for its start makes them
too large. A probe of a few steps from fresh state sees little else, so the search should know.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

AT = tuple(2**i for i in range(11))
"""The updates whose sizes are told, counted from 1."""
_LEFT_OUT = {"params", "weight_decay", "capturable", "fused", "foreach", "lr"}
"""What of a group's options the toy has not: a decay would move its weight by itself, and it lies on the host."""


def first_updates(optimizer: Optimizer) -> tuple[float, ...]:
    """By how much the updates `AT` move a weight whose gradient is always one, in units of the LR.

    Empty where no fresh optimizer of that kind can be made, or updated without its user's help. Neither the optimizer
    nor random state is touched.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return _moved(_toy(optimizer))
    except Exception:  # it is somebody's class, which may need whatever it likes
        return ()


def _toy(optimizer: Optimizer) -> Optimizer:
    taken = inspect.signature(type(optimizer).__init__).parameters
    group = optimizer.param_groups[0]
    options: dict[str, Any] = {k: v for k, v in group.items() if k in taken and k not in _LEFT_OUT}
    if "weight_decay" in taken:
        options["weight_decay"] = 0.0
    dimensions = min(max((p.dim() for p in group["params"]), default=1), 2)
    weight = nn.Parameter(torch.zeros((2,) * max(dimensions, 1), dtype=torch.float64))
    kind: Callable[..., Optimizer] = type(optimizer)
    return kind([weight], lr=1e-3, **options)


def _moved(toy: Optimizer) -> tuple[float, ...]:
    group = toy.param_groups[0]
    (weight,) = group["params"]
    sizes = []
    for step in range(1, AT[-1] + 1):
        weight.grad = torch.ones_like(weight)
        before = weight.detach().clone()
        toy.step()
        if step in AT:
            sizes.append((weight.detach() - before).abs().mean().item() / group["lr"])
    return tuple(sizes) if all(math.isfinite(size) and size > 0 for size in sizes) else ()
