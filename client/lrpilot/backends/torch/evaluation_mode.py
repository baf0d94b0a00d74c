"""What a validation function may change: modes of modules and optimizers, buffers, attributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lrpilot.backends.torch.rollback.snapshot import Snapshot


@contextlib.contextmanager
def evaluating(snapshot: Snapshot, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Prepares a validation; training goes on afterwards as if there had been none.

    An optimizer with modes (Schedule-Free: it trains at other weights than it evaluates) is put into evaluation. The
    way there and back rounds, so the weights are put back as they were.
    """
    with_modes: list[Any] = [each for each in optimizers if has_modes(each)]
    weights = [parameter for each in with_modes for group in each.param_groups for parameter in group["params"]]
    with snapshot.preserved(but=weights):
        for optimizer in with_modes:
            optimizer.eval()
        try:
            yield
        finally:
            for optimizer in with_modes:
                optimizer.train()


def has_modes(optimizer: Any) -> bool:
    """Whether an optimizer trains at other weights than it evaluates."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
