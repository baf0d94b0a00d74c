"""What a validation function switches: modules to evaluation, and optimizers that have modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """For a validation; training goes on afterwards as if there had been none.

    An optimizer with modes (Schedule-Free: it trains at other weights than it evaluates) is put into evaluation. The
    way there and back rounds, so the weights are put back as they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    with_modes: list[Any] = [each for each in optimizers if _has_modes(each)]
    parameters = [p for each in with_modes for group in each.param_groups for p in group["params"]]
    weights = [parameter.detach().clone() for parameter in parameters]
    for optimizer in with_modes:
        optimizer.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for optimizer in with_modes:
            optimizer.train()
        with torch.no_grad():
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.copy_(weight)


def _has_modes(optimizer: Any) -> bool:
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
