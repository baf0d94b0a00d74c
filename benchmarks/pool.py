"""Long work in worker processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Out of the way of whatever else the machine does.
_NICENESS = 15

Key = TypeVar("Key")
Result = TypeVar("Result")


def start_worker() -> None:
    """Makes a worker process a modest one: one thread, low priority."""
    torch.set_num_threads(1)
    os.nice(max(0, _NICENESS - os.nice(0)))


def run_in_workers(
    title: str,
    keys: Sequence[Key],
    work: Callable[[Key], Result],
    describe: Callable[[Key], str],
    n_workers: int,
) -> Iterator[tuple[Key, Result]]:
    """Yields each key with its result as soon as that is there."""
    # Spawned: forking a process in which torch has threads can hang.
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeRemainingColumn()) as progress,
        ProcessPoolExecutor(n_workers, context, start_worker) as pool,
    ):
        task = progress.add_task(title, total=len(keys))
        futures = {pool.submit(work, key): key for key in keys}
        for future in as_completed(futures):
            key = futures[future]
            yield key, future.result()
            progress.update(task, advance=1, description=describe(key))
