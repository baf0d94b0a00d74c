"""The file of finished runs: append-only JSON lines, so that a long grid can stop and go on at any time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import json_lines
from benchmarks.quality.training import Curve


@dataclass(frozen=True)
class RunKey:
    """What identifies a run; `version` is the workload's, `lr` is None for contestants that choose it themselves."""

    workload: str
    version: int
    contestant: str
    lr: float | None
    seed: int
    n_steps: int


class ResultFile:
    """Finished runs in a JSON-lines file.

    Rows of outdated workload versions stay in the file under keys that nobody asks for any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[RunKey, Curve]:
        """All runs by key. A line that a crash cut short is left out, so that its run is done again."""
        return dict(map(_from_json, json_lines.read(self._path)))

    def append(self, key: RunKey, curve: Curve) -> None:
        """Adds a run."""
        row = {"key": asdict(key), "curve": asdict(curve)}
        if curve.diverged:
            row["curve"]["final_val_loss"] = None  # JSON has no infinity
        json_lines.append(self._path, row)


def _from_json(row: dict[str, Any]) -> tuple[RunKey, Curve]:
    curve = Curve(**row["curve"])
    if curve.diverged:
        curve.final_val_loss = math.inf
    return RunKey(**row["key"]), curve
