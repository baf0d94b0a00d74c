"""What a contestant is: something that trains a workload, with an LR that it is given or one that it chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.quality.training import Curve
from benchmarks.quality.workloads import Workload

RunWithLr = Callable[[Workload, float, int, int], Curve]
RunWithoutLr = Callable[[Workload, int, int], Curve]


@dataclass(frozen=True)
class Contestant:
    """Something that trains a workload from (workload, lr, n_steps, seed); `lrs` are the LRs to try it with.

    All optimizer steps that it makes, those of a search included, are within `n_steps`.
    """

    name: str
    run: Callable[[Workload, float | None, int, int], Curve]
    takes_lr: bool

    def lrs(self, workload: Workload) -> tuple[float | None, ...]:
        """The LRs that the grid tries: the workload's, or a single None."""
        return workload.lr_grid if self.takes_lr else (None,)


def tuned(name: str, run: RunWithLr) -> Contestant:
    """A contestant that is given an LR."""

    def with_lr(workload: Workload, lr: float | None, n_steps: int, seed: int) -> Curve:
        if lr is None:
            raise ValueError(f"{name} needs an LR")
        return run(workload, lr, n_steps, seed)

    return Contestant(name, with_lr, takes_lr=True)


def lr_free(name: str, run: RunWithoutLr) -> Contestant:
    """A contestant that has, or chooses, an LR of its own. It is run once."""

    def without_lr(workload: Workload, lr: float | None, n_steps: int, seed: int) -> Curve:
        if lr is not None:
            raise ValueError(f"{name} chooses its LR itself")
        return run(workload, n_steps, seed)

    return Contestant(name, without_lr, takes_lr=False)


def by_name(*contestants: Contestant) -> dict[str, Contestant]:
    """The contestants by name, in this order."""
    return {contestant.name: contestant for contestant in contestants}
