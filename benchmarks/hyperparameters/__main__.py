"""How the best LR moves with weight decay, momentum and batch size, and whether a tuned run finds it again.

    python -m benchmarks.hyperparameters --json hyperparameters.json --plots images

A small network on scikit-learn's digits. For every setting there is a sweep, which is whole runs of linear decay, and a
tuned run as long as one of them, search included, which is told neither bounds nor a good guess. Where the search fell
short, longer runs follow, with its probes as they are by default and longer. It takes some minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console

from benchmarks.hyperparameters.report import draw, markdown, markdown_of_longer, rows
from benchmarks.hyperparameters.runs import measure, measure_longer
from benchmarks.outputs import add_outputs, write
from benchmarks.quality.__main__ import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_outputs(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(stderr=True)
    runs = measure(console)
    longer = measure_longer(runs, console)
    found = rows(runs)
    figures: Mapping[str, Any] = {
        "environment": environment(),
        "summary": [dataclasses.asdict(row) for row in found],
        "runs": [dataclasses.asdict(run) for run in (*runs, *longer)],
    }
    tables = f"{markdown(found)}\n{markdown_of_longer(longer)}"
    write(arguments, tables, figures, lambda folder: draw(runs).savefig(folder / "hyperparameters.png"))


if __name__ == "__main__":
    main()
