"""Schedules that have a formula: how an LR moves over a run, by name and parameters, and which LR goes with which.

A shape is a function of the part of the run that lies behind, `Shape.weight`, or of a step of so many, `Shape.at`. It
needs nothing but the standard library; `scheduler` imports PyTorch.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from lrpilot.schedules.batch_size import AdamConstants, BatchScaling, lr_factor, scaled_adam
from lrpilot.schedules.convex_bound import Extension, best_base_lr, extension, terms, transfer, wsd_bound
from lrpilot.schedules.infinite import InfiniteSchedule
from lrpilot.schedules.profiles import (
    anneal_from,
    as_shape,
    constant,
    cosine,
    exponential,
    floored,
    half_life,
    infinite,
    linear,
    mirror_cosine,
    one_cycle,
    one_minus_sqrt,
    one_minus_square,
    polynomial,
    power_scheduler,
    rewarmed,
    rex,
    sampled,
    step,
    two_point,
    warmed,
    wsd,
)
from lrpilot.schedules.shape import NAMES, Shape

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "NAMES",
    "AdamConstants",
    "BatchScaling",
    "Extension",
    "InfiniteSchedule",
    "Shape",
    "anneal_from",
    "as_shape",
    "best_base_lr",
    "constant",
    "cosine",
    "exponential",
    "extension",
    "floored",
    "half_life",
    "infinite",
    "linear",
    "lr_factor",
    "mirror_cosine",
    "one_cycle",
    "one_minus_sqrt",
    "one_minus_square",
    "polynomial",
    "power_scheduler",
    "rewarmed",
    "rex",
    "sampled",
    "scaled_adam",
    "scheduler",
    "step",
    "terms",
    "transfer",
    "two_point",
    "warmed",
    "wsd",
    "wsd_bound",
]


def scheduler(
    optimizer: Optimizer,
    shape: Shape | str | InfiniteSchedule,
    total_steps: int | None = None,
    *,
    warmup: int = 0,
    warmup_from: float | None = None,
    floor: float = 0.0,
) -> LRScheduler:
    """A PyTorch scheduler that follows a shape, from the LRs that the groups have; call `step` after every update.

    Every group keeps the ratio of its LR to the others'. An LR that is a tensor is set in place.

    Args:
        optimizer: whose LRs are the highest ones.
        shape: or its text, such as "rex(0.9)"; an infinite schedule needs no `total_steps`, and has its own warm-up.
        total_steps: of the run, warm-up included; the LR of the step after the last is where the shape leads.
        warmup: steps that rise along a line, before the shape begins.
        warmup_from: what they rise from, as a part of the LR; None: one step below zero, so that no step has none.
        floor: where the shape leads, as a part of the LR.

    Raises:
        ValueError: a number is out of its range, or the text is of no shape.
    """
    from lrpilot.schedules.torch_scheduler import ShapeScheduler

    if not isinstance(getattr(optimizer, "param_groups", None), list):
        raise ValueError(f"optimizer: a {type(optimizer).__name__} is none; give a torch.optim.Optimizer")
    if isinstance(shape, InfiniteSchedule):
        return ShapeScheduler(optimizer, shape, None)
    steps, rising = _whole("total_steps", total_steps), _whole("warmup", warmup)
    if not 0 <= rising < steps:
        raise ValueError(f"scheduler: a warm-up of {rising} of {steps} steps; give total_steps, and fewer of them")
    wanted = as_shape(shape)
    if floor:
        wanted = floored(wanted, floor)
    if rising:
        low = 1 / (rising + 1) if warmup_from is None else warmup_from
        wanted = warmed(wanted, rising / steps, low)
    wanted.weight(1.0)
    return ShapeScheduler(optimizer, wanted, steps)


def _whole(field: str, value: object) -> int:
    """A whole number of steps. Raises: ValueError: it is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]  # which is what is asked
    except TypeError:
        kind = type(value).__name__
        raise ValueError(f"{field}: {value!r} ({kind}); give a whole number of steps, as 10_000") from None
