"""Whether the optimizers moved the weights: a GradScaler skips the update when gradients overflow."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch


class Updates:
    """Counts the optimizers' updates.

    An optimizer that handles overflows itself (fused, capturable) is called all the same. On the CPU its flag is read.
    On other devices that would cost a synchronisation a step, so there a skipped update counts as a step.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Watches the optimizers as long as it lives."""
        self._count = 0
        self._seen = 0
        # Accelerate's wrapper has no hooks; the optimizer in it has.
        inner = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
        hooks = [optimizer.register_step_post_hook(_hook(weakref.ref(self))) for optimizer in inner]
        for hook in hooks:
            weakref.finalize(self, hook.remove)

    def any(self) -> bool:
        """Whether there was one since the last call."""
        seen, self._seen = self._seen, self._count
        return self._count > seen

    def add(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes that the optimizer was called."""
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is None or overflow.device.type != "cpu" or not overflow:
            self._count += 1


def _hook(updates: weakref.ref[Updates]) -> Any:
    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        target = updates()
        if target is not None:
            target.add(optimizer)

    return count
