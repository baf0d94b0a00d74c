"""How fast a snapshot is taken and restored: against a plain copy, copy.deepcopy and torch.save.

    python -m benchmarks.snapshot --json snapshot.json --plot snapshot.png

A model with AdamW state (a stack of square linear layers, a few steps trained), in one process on one thread. In every
round each way is timed once, in an order drawn anew, so that a machine that slows down slows all of them. What counts
is bandwidth as a share of the plain copy's in the same round.

- *plain copy*: one flat tensor of as many bytes, `copy_` to another that is there already. That is the ceiling.
- *take*, *restore*: of a snapshot on the device and on disk, each with memory that it has from a take before. The first
  take, which has to get its memory from the operating system, is timed apart. Here the device is the CPU, and so is the
  host: there is no third place to measure.
- *copy.deepcopy*, *torch.save*: of the state dicts of model and optimizer; torch.save to memory and to a file.

Bandwidth is bytes of the tensors over time: each byte is read once and written once. What goes to disk goes to the page
cache of the operating system, which writes it out later; nobody waits for the disk here unless the cache is full.
"""

from __future__ import annotations

import argparse
import copy
import gc
import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from lrpilot.backends.torch.rollback.memory import nbytes
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from benchmarks.environment import environment

WIDTH = 1024
"""The width of a layer: four MiB of weights, far more than a core's caches hold of it."""
PLAIN = "plain copy"
AIM = 0.9
"""The part of the plain copy's bandwidth that a snapshot should reach; `benchmarks.device` has the same aim."""

FloatArray = npt.NDArray[np.float64]


def trained(n_parameters: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of about so many parameters whose optimizer has its state, and no gradients."""
    torch.manual_seed(0)
    width = min(WIDTH, int(n_parameters**0.5))
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(max(1, n_parameters // (width * width + width)))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(2):
        torch.autograd.backward(model(torch.randn(2, width)).square().mean())
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def n_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    state = [tensor for of_one in optimizer.state.values() for tensor in of_one.values()]
    return sum(map(nbytes, [*model.parameters(), *state]))


def ways(
    model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What is compared, by name, and seconds of first takes."""
    size = n_bytes(model, optimizer)
    source, target = torch.ones(size // 4), torch.zeros(size // 4)
    compared: dict[str, Callable[[], object]] = {PLAIN: lambda: target.copy_(source)}
    first = {}
    for where in ("device", "disk"):
        snapshot = Snapshot(model, [optimizer], {}, directory if where == "disk" else where)
        first[f"first take, {where}"] = seconds(snapshot.take)
        compared[f"take, {where}"] = snapshot.take
        compared[f"restore, {where}"] = snapshot.restore

    def state_dicts() -> list[dict[str, Any]]:
        return [model.state_dict(), optimizer.state_dict()]

    compared["copy.deepcopy"] = lambda: copy.deepcopy(state_dicts())
    compared["torch.save, memory"] = lambda: torch.save(state_dicts(), io.BytesIO())
    compared["torch.save, file"] = lambda: torch.save(state_dicts(), directory / "checkpoint.pt")
    return compared, first


def seconds(way: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    result = way()
    elapsed = time.perf_counter() - start
    del result  # Freeing is not timed.
    return elapsed


def measure(compared: dict[str, Callable[[], object]], rounds: int, console: Console) -> dict[str, FloatArray]:
    """Seconds, by way: shape (rounds,). A round before them is not counted."""
    times: dict[str, list[float]] = {name: [] for name in compared}
    generator = random.Random(0)
    for _ in track(range(rounds + 1), "rounds", console=console, transient=True):
        for name in generator.sample(list(compared), len(compared)):
            times[name].append(seconds(compared[name]))
    return {name: np.array(of_one[1:]) for name, of_one in times.items()}


def summarise(times: dict[str, FloatArray], size: int) -> list[dict[str, Any]]:
    """A row for each way: median and range over the rounds of its bandwidth, and of its share of the plain copy's."""
    rows = []
    for name, samples in times.items():
        bandwidth, share = size / samples / 1e9, times[PLAIN] / samples
        rows.append(
            {
                "way": name,
                "median_gb_s": float(np.median(bandwidth)),
                "range_gb_s": [float(bandwidth.min()), float(bandwidth.max())],
                "median_share": float(np.median(share)),
                "range_share": [float(share.min()), float(share.max())],
                "samples_s": samples.tolist(),
            }
        )
    return rows


def show(rows: list[dict[str, Any]], first: dict[str, float], size: int, console: Console) -> None:
    table = Table("way", "GB/s", "range", "of the plain copy", "range")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row["way"],
            f"{row['median_gb_s']:.2f}",
            "{:.2f} - {:.2f}".format(*row["range_gb_s"]),
            f"{row['median_share']:.0%}",
            "{:.0%} - {:.0%}".format(*row["range_share"]),
        )
    for name, elapsed in first.items():
        table.add_row(name, f"{size / elapsed / 1e9:.2f}", "once", "", "")
    console.print(table)
    console.print(f"{size:,} bytes; the aim for the device is {AIM:.0%} of the plain copy")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The share of every round."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    by_name = {row["way"]: row for row in rows}
    plain = np.array(by_name.pop(PLAIN)["samples_s"])
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, row in enumerate(by_name.values()):
        share = plain / np.array(row["samples_s"]) * 100
        axes.plot(share, np.full(len(share), i), "o", color="tab:blue", alpha=0.5)
        axes.plot(np.median(share), i, "|", color="black", markersize=18)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.axvline(AIM * 100, color="tab:red", linestyle="--", label="the aim, on the device")
    axes.set_yticks(range(len(by_name)), list(by_name))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set(xlabel="bandwidth, of the plain copy's (%): rounds, and their median")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how fast a snapshot is taken and restored.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--parameters", type=float, default=100e6, help="of the model; some 75 bytes each are needed")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of every way")
    parser.add_argument("--directory", type=Path, help="on the disk; default: one for temporary files")
    arguments = parser.parse_args()

    console = Console()
    torch.set_num_threads(1)
    model, optimizer = trained(int(arguments.parameters))
    size = n_bytes(model, optimizer)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        compared, first = ways(model, optimizer, Path(directory))
        rows = summarise(measure(compared, arguments.rounds, console), size)
    show(rows, first, size, console)
    results = {
        "environment": environment("torch", "grpcio", "protobuf", threads=torch.get_num_threads()),
        "bytes": size,
        "ways": rows,
        "first_take_s": first,
    }
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
