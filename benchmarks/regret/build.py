"""Builds the states that a table file lacks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.quality.grid import start_worker
from benchmarks.quality.workloads import WORKLOADS
from benchmarks.regret.oracle import StateKey, build
from benchmarks.regret.storage import TableFile

STEPS = (0, 400, 1600)
"""Of the states in a run: fresh weights, the steep part, the flatter part."""
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
    # Spawned: forking a process in which torch has threads can hang.
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeRemainingColumn()) as progress,
        ProcessPoolExecutor(n_workers, context, start_worker) as pool,
    ):
        task = progress.add_task("oracle table", total=len(keys))
        futures = {pool.submit(build, key): key for key in keys}
        for future in as_completed(futures):
            key = futures[future]
            file.append(future.result())
            progress.update(task, advance=1, description=f"{key.workload} at step {key.step}")
