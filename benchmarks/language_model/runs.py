"""The runs of a size: which there are, one of them, and all that are missing."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import torch

from benchmarks.language_model.contestants import CONTESTANTS
from benchmarks.language_model.sizes import SIZES, Size
from benchmarks.pool import run_in_workers
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.training import Curve, update
from benchmarks.quality.workloads import Workload


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def planned(size: Size, device: torch.device, contestants: Iterable[str] = CONTESTANTS) -> list[RunKey]:
    """All runs, seed by seed, so that an interrupted benchmark has the first seeds complete."""
    workload = size.workload(device)
    return [
        RunKey(workload.name, workload.version, contestant, lr, seed, size.n_steps)
        for seed in range(size.n_seeds)
        for contestant in contestants
        for lr in CONTESTANTS[contestant].lrs(workload)
    ]


def run(key: RunKey) -> Curve:
    """Trains one run. On a GPU what is compiled is compiled before its clock begins."""
    name, _, device_type = key.workload.rpartition(", ")
    device = torch.device(device_type)
    workload = SIZES[name].workload(device)
    if device.type == "cuda":
        _compile(workload)
        gc.collect()  # what earlier runs left is no part of this one's peak
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(key.seed)
    curve = CONTESTANTS[key.contestant].run(workload, key.lr, key.n_steps, key.seed)
    return replace(curve, peak_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else None)


def run_missing(keys: Sequence[RunKey], done: Collection[RunKey], results: ResultFile, n_workers: int) -> None:
    """Makes the runs that are not done, and stores each as soon as it is there."""
    missing = [key for key in keys if key not in done]
    for key, curve in run_in_workers("runs", missing, run, lambda key: key.contestant, n_workers):
        results.append(key, curve)


def _compile(workload: Workload) -> None:
    """Has the model compiled for training and for validation, in a session that is thrown away."""
    session = workload.build(0)
    for _, batch in zip(range(2), session.batches(), strict=False):
        update(session, batch)
    session.validate()
