"""Builds the states that a table file lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.pool import run_in_workers
from benchmarks.quality.workloads import WORKLOADS
from benchmarks.regret.oracle import StateKey, build
from benchmarks.regret.storage import TableFile

STEPS = (0, 400, 1600)
"""The steps of the states in a run: fresh weights, the steep part, the flatter part."""
N_SEEDS = 2


def plan(workloads: Iterable[str], steps: Iterable[int] = STEPS, n_seeds: int = N_SEEDS) -> list[StateKey]:
    """All states, seed by seed, so that an interrupted build has the first ones complete."""
    return [
        StateKey(name, WORKLOADS[name].version, seed, step)
        for seed in range(n_seeds)
        for step in steps
        for name in workloads
    ]


def build_all(keys: Sequence[StateKey], file: TableFile, n_workers: int) -> None:
    """Builds `keys` in worker processes and stores each state as soon as it is there."""
    describe = "{0.workload} at step {0.step}".format
    for _, table in run_in_workers("oracle table", keys, build, describe, n_workers):
        file.append(table)
