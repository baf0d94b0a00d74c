"""What runs are compared within: the same workload, seed and number of steps."""

from __future__ import annotations

from typing import NamedTuple, Self

from benchmarks.quality.results import RunKey


class Case(NamedTuple):
    workload: str
    seed: int
    n_steps: int

    @classmethod
    def of(cls, key: RunKey) -> Self:
        """The case that a run belongs to."""
        return cls(key.workload, key.seed, key.n_steps)
