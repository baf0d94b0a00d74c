"""The LRs of an optimizer's parameter groups, moved together.

What is tuned is the LR of the first group; every other group keeps its ratio to it.

The base of a group is its `initial_lr`, as PyTorch's schedulers have it: the LR that the user set, which stays when a
schedule moves `lr`. A group that has none gets one. So the second of two runs with one optimizer begins where the first
began, and not at the LR that the first had decayed to.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from lrpilot.errors import ConfigError

INITIAL = "initial_lr"
"""PyTorch's name in a group for the LR that a schedule starts from."""
TOLERANCE = 1e-3
"""LRs that differ by less than this part are one: a tensor LR may be of half precision."""

log = logging.getLogger("lrpilot")


class Grouped(Protocol):
    """An optimizer, as far as it matters here."""

    param_groups: list[dict[str, Any]]


class GroupLrs:
    """Sets the LR of every group of some optimizers."""

    def __init__(self, optimizers: Sequence[Grouped]) -> None:
        """Takes the LRs that the user set as the groups' base.

        Raises:
            ConfigError: there is no group, a group has no LR, or the first LR is not positive.
        """
        self._optimizers = tuple(optimizers)
        self.base_lrs = [_base_lr(optimizer, i) for optimizer in optimizers for i in range(len(optimizer.param_groups))]
        if not self.base_lrs:
            raise ConfigError("optimizer: it has no parameter group")
        first = self.base_lrs[0]
        if not (math.isfinite(first) and first > 0):
            raise ConfigError(
                f"optimizer: the LR of its first group must be positive, not {first}: the others follow it"
            )
        self._lr = first
        ratios = iter([lr / first for lr in self.base_lrs])
        self._ratios = [[next(ratios) for _ in optimizer.param_groups] for optimizer in optimizers]
        self._left = [_remembered(optimizer) for optimizer in optimizers]

    def set(self, lr: float) -> None:
        """Gives the first group `lr` and the others their share of it.

        A tensor LR is filled in place: a compiled step reads it and is not compiled again. A group that was added since
        the last call keeps the ratio that its LR has to the present one; if it was added with no LR of its own, it
        has its optimizer's default as base.
        """
        for optimizer, ratios, left in zip(self._optimizers, self._ratios, self._left, strict=True):
            groups = optimizer.param_groups
            if len(groups) != len(ratios):
                self._adopt(optimizer, ratios)
            for group, ratio in zip(groups, ratios, strict=True):
                assign(group, lr * ratio)
            left.lr = lr * ratios[0] if ratios else lr
        self._lr = lr

    def get(self) -> list[float]:
        """The LR of every group."""
        return [float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups]

    def state_dict(self) -> list[list[float]]:
        """The ratios, by optimizer and group: those of groups that were added are known nowhere else."""
        return [list(ratios) for ratios in self._ratios]

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        """Takes over the ratios of groups that are there."""
        for optimizer, ratios, saved in zip(self._optimizers, self._ratios, state, strict=False):
            ratios[:] = saved[: len(optimizer.param_groups)]
            for group, ratio in zip(optimizer.param_groups, ratios, strict=False):
                group[INITIAL] = ratio * self.base_lrs[0]

    def _adopt(self, optimizer: Grouped, ratios: list[float]) -> None:
        """Finds the ratios of groups that were added, and forgets those of groups that are gone."""
        del ratios[len(optimizer.param_groups) :]
        default = getattr(optimizer, "defaults", {}).get("lr")
        for group in optimizer.param_groups[len(ratios) :]:
            lr = float(group["lr"])
            unstated = default is not None and lr == float(default)
            ratio = lr / (self.base_lrs[0] if unstated or not self._lr else self._lr)
            ratios.append(ratio)
            group[INITIAL] = ratio * self.base_lrs[0]
            log.info("lrpilot: a parameter group was added; its LR is %.3g times the tuned one from here on", ratio)


class _Left:
    """The LR that an optimizer's first group was left at by a tuner; None: by none."""

    __slots__ = ("lr",)

    def __init__(self) -> None:
        self.lr: float | None = None


_LEFT: weakref.WeakKeyDictionary[Any, _Left] = weakref.WeakKeyDictionary()


def _remembered(optimizer: Grouped) -> _Left:
    if type(optimizer).__hash__ is None:
        return _Left()
    return _LEFT.setdefault(optimizer, _Left())


def _base_lr(optimizer: Grouped, number: int) -> float:
    """The LR that the user set for a group. Raises: ConfigError: none is set."""
    group = optimizer.param_groups[number]
    if group.get("lr") is None:
        raise ConfigError(
            f"optimizer: its parameter group {number} has no LR to tune (its 'lr' is {group.get('lr', 'missing')}); "
            "make the optimizer with an LR of its own"
        )
    lr, left = float(group["lr"]), _remembered(optimizer)
    if number == 0 and left.lr is not None and not _same(lr, left.lr):
        # Set by hand since the last tuner left it: for all groups, what they have now is what the user set.
        for each in optimizer.param_groups:
            each[INITIAL] = float(each["lr"])
        left.lr = lr
    initial = float(group.setdefault(INITIAL, lr))
    if number == 0 and not _same(lr, initial):
        log.log(
            logging.WARNING if left.lr is None else logging.INFO,
            "lrpilot: the optimizer's LR is %.3g, since a schedule has moved it; the tuner starts from its initial_lr, "
            "%.3g. To start from another, set both in its param_groups",
            lr,
            initial,
        )
    return initial


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def assign(group: dict[str, Any], lr: float) -> None:
    """Gives a parameter group an LR; a tensor LR is filled in place."""
    if isinstance(group["lr"], float | int):
        group["lr"] = lr
    else:
        group["lr"].fill_(lr)
