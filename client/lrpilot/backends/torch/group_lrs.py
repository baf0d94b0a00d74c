"""The LRs of an optimizer's parameter groups, moved together.

What is tuned is the LR of the first group; every other group keeps its ratio to it.

The base of a group is the LR that the user set. A run leaves an optimizer at the LR that it has decayed to, so the next
run with it looks for the base elsewhere: what the last tuner of the optimizer began with, `initial_lr`, which PyTorch's
schedulers leave in a group, or the LR that the optimizer was made with.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from lrpilot.backends.torch.lr_tensors import LrTensors
from lrpilot.errors import ConfigError

INITIAL = "initial_lr"
"""PyTorch's name in a group for the LR that a schedule starts from."""
TOLERANCE = 1e-3
"""The relative difference below which two LRs are one: a tensor LR may be of half precision."""
DECAYED = 0.1
"""LRs below this part of the one that the optimizer was made with were left by a schedule."""

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
        self._memories = [_memory(optimizer) for optimizer in optimizers]
        bases = [_bases(optimizer, memory) for optimizer, memory in zip(optimizers, self._memories, strict=True)]
        self.base_lrs = [lr for each in bases for lr in each]
        if not self.base_lrs:
            raise ConfigError("optimizer: it has no parameter group")
        first = self.base_lrs[0]
        if not (math.isfinite(first) and first > 0):
            raise ConfigError(
                f"optimizer: the LR of its first group must be positive, not {first}: the others follow it"
            )
        self._lr = first
        self._tensors = LrTensors()
        self._ratios = [[lr / first for lr in each] for each in bases]
        self._tuned = [*zip(self._optimizers, self._ratios, self._memories, strict=True)]

    def set(self, lr: float) -> None:
        """Gives the first group `lr` and the others their share of it.

        A tensor LR is filled in place: a compiled step reads it and is not compiled again. A group that was added since
        the last call keeps the ratio that its LR has to the present one; if it was added with no LR of its own, it
        has its optimizer's default as base.
        """
        for optimizer, ratios, memory in self._tuned:
            groups = optimizer.param_groups
            if len(groups) != len(ratios):
                self._adopt(optimizer, ratios)
                memory.base_lrs = [ratio * self.base_lrs[0] for ratio in ratios]
            tensors: dict[int, tuple[torch.Tensor, float]] = {}  # groups may share one
            for group, ratio in zip(groups, ratios, strict=True):
                present = group["lr"]
                if type(present) is float:
                    group["lr"] = lr * ratio
                elif isinstance(present, torch.Tensor):
                    tensors[id(present)] = present, lr * ratio
                else:
                    assign(group, lr * ratio)
            if tensors:
                self._tensors.fill(tensors)
            memory.left_at = lr * ratios[0] if ratios else lr
        self._lr = lr

    def get(self) -> list[float]:
        """The LR of every group."""
        return [float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The first group's base, and the ratios by optimizer and group: those of groups that were added, too."""
        return {"base_lr": self.base_lrs[0], "ratios": [list(ratios) for ratios in self._ratios]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the ratios of groups that are there, and the first group's base.

        A loaded optimizer may have brought the LR that the run was at, and nothing tells that from one that was set.
        """
        for optimizer, ratios, memory, saved in zip(
            self._optimizers, self._ratios, self._memories, state["ratios"], strict=False
        ):
            ratios[:] = saved[: len(optimizer.param_groups)]
            memory.base_lrs = [ratio * state["base_lr"] for ratio in ratios]
        self.base_lrs = [lr for memory in self._memories for lr in memory.base_lrs]

    def _adopt(self, optimizer: Grouped, ratios: list[float]) -> None:
        """Finds the ratios of groups that were added, and forgets those of groups that are gone."""
        del ratios[len(optimizer.param_groups) :]
        default = getattr(optimizer, "defaults", {}).get("lr")
        for group in optimizer.param_groups[len(ratios) :]:
            lr = float(group["lr"])
            unstated = default is not None and lr == float(default)
            ratio = lr / (self.base_lrs[0] if unstated or not self._lr else self._lr)
            ratios.append(ratio)
            log.info("lrpilot: a parameter group was added; its LR is %.3g times the tuned one from here on", ratio)


@dataclasses.dataclass(slots=True)
class _Memory:
    """What the last tuner of an optimizer began with, and where it left the first group."""

    base_lrs: list[float]
    left_at: float | None = None


_MEMORIES: weakref.WeakKeyDictionary[Any, _Memory] = weakref.WeakKeyDictionary()


def _memory(optimizer: Grouped) -> _Memory:
    if type(optimizer).__hash__ is None:
        return _Memory([])
    return _MEMORIES.setdefault(optimizer, _Memory([]))


def _bases(optimizer: Grouped, memory: _Memory) -> list[float]:
    """The LRs that the user set, by group; they are remembered. Raises: ConfigError: a group has none."""
    lrs = [_lr(group, number) for number, group in enumerate(optimizer.param_groups)]
    left = memory.left_at is not None and bool(lrs) and _same(lrs[0], memory.left_at)
    if left:
        known = memory.base_lrs[: len(lrs)]
        memory.base_lrs = [*known, *lrs[len(known) :]]  # groups that were added since then have their own
        return memory.base_lrs
    bases = [float(group.get(INITIAL, lr)) for group, lr in zip(optimizer.param_groups, lrs, strict=True)]
    made_with = _made_with(optimizer)
    if memory.left_at is not None:
        bases = lrs  # set by hand since then
    elif bases and made_with is not None and max(bases) < DECAYED * made_with:
        bases = [made_with * (base / max(bases) if any(bases) else 1.0) for base in bases]
    if lrs and not _same(lrs[0], bases[0]):
        log.warning(
            "lrpilot: the optimizer's LR is %.3g, since a schedule has moved it; the tuner starts from %.3g, which was "
            "set before. To start from another, set lr and initial_lr in its param_groups",
            lrs[0],
            bases[0],
        )
    memory.base_lrs = bases
    return bases


def _made_with(optimizer: Grouped) -> float | None:
    """The LR that the optimizer was made with, where a LR far below it must have been left by a schedule.

    That is not so where a scheduler left the LR that it began with, nor in a new optimizer whose groups all have LRs of
    their own: it was made with its class's default, which nobody meant.
    """
    lr = getattr(optimizer, "defaults", {}).get("lr")
    if lr is None or any(INITIAL in group for group in optimizer.param_groups):
        return None
    parameter = inspect.signature(type(optimizer)).parameters.get("lr")
    is_default = parameter is not None and parameter.default == lr
    return None if is_default and not getattr(optimizer, "state", None) else float(lr)


def _lr(group: dict[str, Any], number: int) -> float:
    if group.get("lr") is None:
        raise ConfigError(
            f"optimizer: its parameter group {number} has no LR to tune (its 'lr' is {group.get('lr', 'missing')}); "
            "make the optimizer with an LR of its own"
        )
    return float(group["lr"])


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def assign(group: dict[str, Any], lr: float) -> None:
    """Gives a parameter group an LR; a tensor LR is filled in place."""
    if isinstance(group["lr"], (float, int)):
        group["lr"] = lr
    else:
        group["lr"].fill_(lr)
