"""The LRs of an optimizer's parameter groups, moved together.

What is tuned is the LR of the first group; every other group keeps its ratio to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from lrpilot.errors import ConfigError


class Grouped(Protocol):
    """An optimizer, as far as it matters here."""

    param_groups: list[dict[str, Any]]


class GroupLrs:
    """Sets the LR of every group of some optimizers."""

    def __init__(self, optimizers: Sequence[Grouped]) -> None:
        """Takes the groups' present LRs as their base.

        Raises:
            ConfigError: there is no group, or the first LR is not positive.
        """
        self._optimizers = tuple(optimizers)
        self.base_lrs = [float(group["lr"]) for group in self._groups()]
        if not self.base_lrs:
            raise ConfigError("optimizer: it has no parameter group")
        first = self.base_lrs[0]
        if not (math.isfinite(first) and first > 0):
            raise ConfigError(
                f"optimizer: the LR of its first group must be positive, not {first}: the others follow it"
            )
        self._ratios = [lr / first for lr in self.base_lrs]

    def set(self, lr: float) -> None:
        """Gives the first group `lr` and the others their share of it.

        A tensor LR is filled in place: a compiled step reads it and is not compiled again.
        """
        # A group that was added later has no ratio, and keeps its own LR.
        for group, ratio in zip(self._groups(), self._ratios, strict=False):
            assign(group, lr * ratio)

    def get(self) -> list[float]:
        """The LR of every group."""
        return [float(group["lr"]) for group in self._groups()]

    def _groups(self) -> Iterator[dict[str, Any]]:
        """The groups as they are now: loading an optimizer's state replaces them."""
        for optimizer in self._optimizers:
            yield from optimizer.param_groups


def assign(group: dict[str, Any], lr: float) -> None:
    """Gives a parameter group an LR; a tensor LR is filled in place."""
    if isinstance(group["lr"], float | int):
        group["lr"] = lr
    else:
        group["lr"].fill_(lr)
