"""What the tuners of several ranks keep in a checkpoint: a file of each, beside what the framework saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lrpilot.errors import ConfigError

STEM = "lrpilot"
"""What the files' names begin with."""


def file_of(directory: str | Path, rank: int, size: int) -> Path:
    """The file of a rank; of a process that trains alone, the one without a number."""
    return Path(directory, f"{STEM}.pt" if size == 1 else f"{STEM}_{rank}.pt")


def write(directory: str | Path, rank: int, size: int, state: dict[str, Any]) -> None:
    """Saves what a rank's tuner knows. Not collective."""
    path = file_of(directory, rank, size)
    path.parent.mkdir(parents=True, exist_ok=True)  # the rank that makes it may be late
    torch.save(state, path)


def read(directory: str | Path, rank: int, size: int) -> dict[str, Any] | None:
    """What `write` saved; None on every rank if the checkpoint has no tuner. Collective.

    Raises:
        ConfigError: the checkpoint was made by another number of processes, or a rank does not see its file.
    """
    path = file_of(directory, rank, size)
    others = {each.name for each in Path(directory).glob(f"{STEM}*.pt")}
    found = [path.exists()] if size == 1 else _on_all_ranks(path.exists(), size)
    if all(found):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    if not any(found) and not any([bool(others)] if size == 1 else _on_all_ranks(bool(others), size)):
        return None
    missing = ", ".join(str(number) for number, there in enumerate(found) if not there)
    raise ConfigError(
        f"checkpoint: {directory} holds no tuner's state for rank {missing} of {size}; go on with as many processes as "
        "saved it, each of which must see the file that it wrote"
    )


def _on_all_ranks(condition: bool, size: int) -> list[bool]:
    """What holds on every rank, in order; collective."""
    conditions: list[bool] = [False] * size
    dist.all_gather_object(conditions, condition)
    return conditions
