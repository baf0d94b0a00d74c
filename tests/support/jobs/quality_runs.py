"""Made-up runs of the quality benchmark: keys, curves and a small plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from benchmarks.quality.plan import Part, Plan
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve
from benchmarks.quality.workloads import WORKLOADS, Workload

GRID = (0.001, 0.0032, 0.01, 0.032, 0.1, 0.32, 1.0)


def workload(name: str, grid: Sequence[float] = GRID, score: Callable[[float], float] = float) -> Workload:
    """A workload of that name; its model is of no importance."""
    return replace(WORKLOADS["mlp"], name=name, version=1, lr_grid=tuple(grid), score=score)


def key(contestant: str, workload: str, seed: int, lr: float | None = None, n_steps: int = 1000) -> RunKey:
    return RunKey(workload, 1, contestant, lr, seed, n_steps)


def curve(loss: float, search_steps: int = 0, peak_lr: float | None = None, n_steps: int = 1000) -> Curve:
    """A run that was validated in its middle, at twice its final loss, and at its end; infinity: it diverged."""
    if math.isinf(loss):
        return Curve(loss, diverged=True)
    steps = [n_steps // 2, n_steps]
    return Curve(loss, False, steps, [loss * 2, loss], search_steps=search_steps, peak_lr=peak_lr)


def sweep(
    contestant: str, workload: str, losses: Mapping[int, Mapping[float, float]], n_steps: int = 1000
) -> dict[RunKey, Curve]:
    """The runs of a sweep from losses by seed and LR."""
    return {
        key(contestant, workload, seed, lr, n_steps): curve(loss, n_steps=n_steps)
        for seed, own in losses.items()
        for lr, loss in own.items()
    }


def plan(
    workloads: Sequence[Workload],
    *contestants: str,
    n_seeds: int = 2,
    lengths: tuple[int, ...] = (1000,),
    stored: tuple[str, ...] = (),
    near_best: tuple[str, ...] = (),
) -> Plan:
    """One part of all contestants, of which `near_best` run so; `stored` are run at the last length only."""
    parts = (
        Part(contestants, lengths, n_seeds, tuple(workloads)),
        Part(near_best, lengths, n_seeds, tuple(workloads), near_best=True),
    )
    own = (Part(stored, lengths[-1:], n_seeds, tuple(workloads)),) if stored else ()
    return Plan(parts, own, main_length=lengths[-1])
