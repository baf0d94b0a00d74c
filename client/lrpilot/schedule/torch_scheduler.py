"""A PyTorch scheduler that replays a schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrpilot.errors import ScheduleError
from lrpilot.wire.schedule_data import ScheduleData


class ReplayScheduler(LRScheduler):
    """Sets group g at scheduler step k to `schedule.lr(k) * base_lr[g] / base_lr[0]`.

    Base LRs are those that the optimizer's groups have when the scheduler is made, or had when an earlier one was
    (their `initial_lr`, as for every PyTorch scheduler). The state dict holds where the replay is, not the schedule.
    """

    def __init__(self, optimizer: Optimizer, schedule: ScheduleData) -> None:
        """Sets the optimizer's LRs to those of step 0.

        Raises:
            ScheduleError: the optimizer is none, the schedule has no steps, or the first group's LR is zero.
        """
        if not isinstance(getattr(optimizer, "param_groups", None), list):
            raise ScheduleError(f"optimizer: a {type(optimizer).__name__} is none; give a torch.optim.Optimizer")
        lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if lrs[0] == 0:
            raise ScheduleError("schedule: the first parameter group's LR is 0; others have no ratio to it")
        self._schedule = schedule
        self._ratios = [lr / lrs[0] for lr in lrs]
        super().__init__(optimizer)

    def __repr__(self) -> str:
        """What is replayed, and where it is."""
        return f"<ReplayScheduler: step {self.last_epoch:,} of {self._schedule!r}>"

    def get_lr(self) -> list[float | torch.Tensor]:
        """The LRs of the groups at the present step. For `step`; use `get_last_lr` to look."""
        lr = self._schedule.lr(self.last_epoch)
        return [lr * ratio for ratio in self._ratios]

    def state_dict(self) -> dict[str, Any]:
        """Where the replay is."""
        state: dict[str, Any] = super().state_dict()
        del state["_schedule"]
        return state
