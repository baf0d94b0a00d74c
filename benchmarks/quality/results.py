"""The file of finished runs: append-only JSON lines, so that a long grid can stop and go on at any time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

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
        return dict(self._rows()) if self._path.exists() else {}

    def _rows(self) -> Iterator[tuple[RunKey, Curve]]:
        for line in self._path.read_text("utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            curve = Curve(**row["curve"])
            if curve.diverged:
                curve.final_val_loss = math.inf
            yield RunKey(**row["key"]), curve

    def append(self, key: RunKey, curve: Curve) -> None:
        """Adds a run."""
        row = {"key": asdict(key), "curve": asdict(curve)}
        if curve.diverged:
            row["curve"]["final_val_loss"] = None  # JSON has no infinity
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with self._path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short
                    line = b"\n" + line
            file.write(line)
