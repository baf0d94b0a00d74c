"""The losses that runs begin with: what the final validation loss would be without a step.

python -m benchmarks.quality.initial_losses

writes those of all workloads and of the seeds that are planned, which a diverged run counts as where LRs are compared
(`benchmarks.quality.lr_sensitivity`). It trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import json_lines
from benchmarks.quality.plan import N_SEEDS
from benchmarks.quality.results import RunKey
from benchmarks.quality.workloads import WORKLOADS

STORED = Path(__file__).parent / "data" / "initial_losses.jsonl"


class Start(NamedTuple):
    """Where a run begins, whatever LR it is given."""

    workload: str
    version: int
    seed: int

    @classmethod
    def of(cls, key: RunKey) -> Start:
        """Where a run begins."""
        return cls(key.workload, key.version, key.seed)


def load(path: Path = STORED) -> Mapping[Start, float]:
    """All that are stored."""
    return {Start(row["workload"], row["version"], row["seed"]): float(row["loss"]) for row in json_lines.read(path)}


def main() -> None:
    """Adds what the file lacks."""
    torch.set_num_threads(1)
    known = load()
    for workload in WORKLOADS.values():
        for seed in range(N_SEEDS):
            start = Start(workload.name, workload.version, seed)
            if start not in known:
                json_lines.append(STORED, {**start._asdict(), "loss": workload.build(seed).judge()})


if __name__ == "__main__":
    main()
