"""What a contestant is: something that trains a workload through its change."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from benchmarks.onthefly.workloads import ChangingWorkload
from benchmarks.quality.training import Curve


class Trial(NamedTuple):
    """One run of a contestant.

    Attributes:
        lr: The peak LR that it is given; None for contestants that choose it themselves.
        seed: Fixes the initial weights and the batches.
        n_steps: All optimizer steps, those of a search included.
        first_lr: The peak LR before the change, for contestants that have one of its own there.
    """

    lr: float | None
    seed: int
    n_steps: int
    first_lr: float | None = None


class Contestant(Protocol):
    """Something that trains a workload."""

    def first_steps(self, n_steps: int) -> int | None:
        """The length of the linear decay whose best LR the contestant is given first; None: it is given none."""
        ...

    def lrs(self, workload: ChangingWorkload) -> tuple[float | None, ...]:
        """The LRs that are tried; a single None for contestants that choose one themselves."""
        ...

    def run(self, workload: ChangingWorkload, trial: Trial) -> Curve:
        """Trains one run."""
        ...
