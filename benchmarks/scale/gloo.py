"""The tuner's channel between a few real processes of this machine, to hold the simulation against."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable
from multiprocessing.queues import SimpleQueue
from typing import NamedTuple

import torch
import torch.distributed as dist
from lrpilot.distributed.ranks import Ranks

ROUNDS = 100
_WARM_UP = 10
_MESSAGE = bytes(500)
"""About as long as a directive."""


class Measured(NamedTuple):
    """Medians over `ROUNDS` on rank 0.

    Attributes:
        ranks: Processes.
        look_s: Seconds of the mean of ten losses.
        hear_s: Seconds of a directive's broadcast.
    """

    ranks: int
    look_s: float
    hear_s: float


def measure(sizes: Iterable[int]) -> list[Measured]:
    """Opens the channel between so many processes, one size after another."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "lrpilot.distributed.ranks"])
    found = []
    for n in sizes:
        results: SimpleQueue[Measured] = context.SimpleQueue()
        with tempfile.TemporaryDirectory() as directory:
            store = f"{directory}/store"
            processes = [context.Process(target=_work, args=(rank, n, store, results)) for rank in range(n)]
            for process in processes:
                process.start()
            found.append(results.get())
            for process in processes:
                process.join()
    return found


def _work(rank: int, n: int, store: str, results: SimpleQueue[Measured]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n)
    assert dist.group.WORLD is not None
    ranks = Ranks(dist.group.WORLD, 60.0)
    looks, hears = [], []
    for _ in range(_WARM_UP + ROUNDS):
        started = time.perf_counter()
        ranks.mean([1.0] * 10)
        looked = time.perf_counter()
        ranks.broadcast(_MESSAGE if rank == 0 else b"")
        looks.append(looked - started)
        hears.append(time.perf_counter() - looked)
    if rank == 0:
        results.put(Measured(n, statistics.median(looks[_WARM_UP:]), statistics.median(hears[_WARM_UP:])))
    ranks.close()
    dist.destroy_process_group()
