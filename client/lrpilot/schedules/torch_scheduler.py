"""A PyTorch scheduler that follows a shape."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrpilot.schedules.infinite import InfiniteSchedule
from lrpilot.schedules.shape import Shape


class ShapeScheduler(LRScheduler):
    """Sets every group at scheduler step k to its base LR times the weight of that step.

    Base LRs are those that the optimizer's groups have when the scheduler is made, or had when an earlier one was
    (their `initial_lr`, as for every PyTorch scheduler). The state dict holds where the run is, not the shape.
    """

    def __init__(self, optimizer: Optimizer, shape: Shape | InfiniteSchedule, total_steps: int | None) -> None:
        """Sets the optimizer's LRs to those of step 0."""
        self._bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        self._shape, self._total_steps = shape, total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The LRs of the groups at the present step. For `step`; use `get_last_lr` to look."""
        weight = self._weight(self.last_epoch)
        return [base * weight for base in self._bases]

    def state_dict(self) -> dict[str, Any]:
        """Where the run is, and the annealing of an infinite schedule."""
        state: dict[str, Any] = super().state_dict()
        shape = state.pop("_shape")
        if isinstance(shape, InfiniteSchedule):
            state["annealing"] = shape.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        state = dict(state_dict)
        annealing = state.pop("annealing", None)
        super().load_state_dict(state)
        if isinstance(self._shape, InfiniteSchedule) and annealing is not None:
            self._shape.load_state_dict(annealing)

    def _weight(self, step: int) -> float:
        if isinstance(self._shape, InfiniteSchedule):
            return self._shape.weight(step)
        assert self._total_steps is not None
        return self._shape.at(step, self._total_steps)
