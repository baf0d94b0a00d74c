"""What the hook costs on an ordinary step: against the bare loop, and against a loop with one round trip a step.

    python -m benchmarks.hook --json hook.json --plot hook.png

Every loop trains the same network, in one process on one thread, in short blocks whose order is drawn anew each round,
so that a machine that slows down slows all of them. What counts is the ratio of medians to the bare loop's, one for
each repeat; a second bare loop shows how far such ratios stray by chance. Processor time is given beside wall time: it
leaves out what the loop waits for, be that another process or an answer.

- *hook, constant LR*: a tuner of a real server process, in the committed steps of an `autolrs` job.
- *hook, decaying LR*: a tuner that follows a scripted linear decay, and so sets another LR at every step.
- *hook, gradient norms*: a tuner that follows a script at a constant LR, which asks for the norm of all gradients at
  every step: they are read once more.
- *hook, update products*: the same, which asks for what hypergradient descent needs: a copy of the weights is kept.
- *hook, all measures*: the same, which asks for all that can be measured.
- *round trip*: reads the loss off its device and waits for an empty call to the same server (grpc.health.v1), as
  tuners do that are asked at every step. A call that did any work would take longer.

Hooked steps include the looks for divergence that fall among them; reports come once in many thousand steps here. The
hook is also timed alone, in a tight loop, where the memory that it allocates and keeps is counted too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import lrpilot
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lrpilot.backends.measures import GRADIENT_L1_NORM, GRADIENT_NORM, UPDATE_NORM, UPDATE_PRODUCT, UPDATE_RATIO
from lrpilot.transport.embedded_server import EmbeddedServer
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.environment import environment

WIDTH, DEPTH, BATCH_SIZE = 384, 4, 64
"""A step of some 5 ms on one slow core."""
LR = 1e-3
BLOCK_STEPS = 5
"""Some 25 ms: far above the clock's grain, and short, so that another process on the core hits few of the blocks."""
WARM_UP_BLOCKS = 5
HORIZON = 1_000_000
"""Steps of a directive: more than are run."""
ALONE_STEPS = 20_000
BUDGET_STEP_S = 5e-3
BUDGET_SHARE = 0.02
BARE, CONTROL, CONSTANT, DECAYING, MEASURING, PRODUCTS, ALL_MEASURES, ROUND_TRIP = (
    "bare",
    "bare again",
    "hook, constant LR",
    "hook, decaying LR",
    "hook, gradient norms",
    "hook, update products",
    "hook, all measures",
    "round trip",
)

MEASURES = {
    MEASURING: (GRADIENT_NORM,),
    PRODUCTS: (GRADIENT_NORM, UPDATE_NORM, UPDATE_PRODUCT),
    ALL_MEASURES: (GRADIENT_NORM, GRADIENT_L1_NORM, UPDATE_NORM, UPDATE_PRODUCT, UPDATE_RATIO),
}
"""What the loops ask for that measure something. SGD has no eps."""

FloatArray = npt.NDArray[np.float64]
Loop = tuple[torch.optim.Optimizer, Callable[[Tensor], object]]
"""An optimizer of its own, whose hooks are part of what a tuner costs, and what is done with a loss after its step."""


class Training:
    """A network, and its steps."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
        self._inputs = torch.randn(BATCH_SIZE, WIDTH)
        self._labels = torch.randint(10, (BATCH_SIZE,))

    def optimizer(self) -> torch.optim.Optimizer:
        """A further one."""
        return torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9)

    def block(self, loop: Loop) -> tuple[float, float]:
        """Seconds a step, by the wall clock and of the processor."""
        optimizer, after_step = loop
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(BLOCK_STEPS):
            loss = functional.cross_entropy(self.model(self._inputs), self._labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            after_step(loss)
        return (time.perf_counter() - wall) / BLOCK_STEPS, (time.process_time() - cpu) / BLOCK_STEPS


def scripted(training: Training, optimizer: torch.optim.Optimizer, end_lr: float, *measures: str) -> lrpilot.Tuner:
    """A tuner within a long committed directive from `LR` to `end_lr` that asks for some measures."""
    shape = "constant" if end_lr == LR else "linear"
    profile = pb.Profile(shape=shape, start_lr=LR, end_lr=end_lr, length=HORIZON)
    directive = pb.Directive(phase=pb.PHASE_TRAIN, n_steps=HORIZON, profile=profile, measures=measures)
    return lrpilot.Tuner(training.model, optimizer, transport=ScriptedTransport([directive]))


def served(training: Training, optimizer: torch.optim.Optimizer, server: str, seed: int) -> lrpilot.Tuner:
    """A tuner of a real job, past a search of one probe of one step, at the start of the committed steps."""
    tuner = lrpilot.Tuner(
        training.model,
        optimizer,
        server=server,
        policy="autolrs",
        policy_options={
            "tau": HORIZON,
            "tau_max": HORIZON,
            "tau_prime": 1,
            "candidates": 1,
            "forecaster": "last_value",
        },
        lr_bounds=(LR / 10, LR),
        seed=seed,
    )
    while tuner.phase != "train":
        tuner.step(1.0)
    return tuner


@contextlib.contextmanager
def loops(training: Training, server: str, seed: int) -> Iterator[dict[str, Loop]]:
    """The loops that are compared, by name."""
    bare, again, one, other, third = (training.optimizer() for _ in range(5))
    measuring = {name: training.optimizer() for name in MEASURES}
    with (
        served(training, one, server, seed) as constant,
        scripted(training, other, 0.0) as decaying,
        contextlib.ExitStack() as stack,
        grpc.insecure_channel(server) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest()

        def round_trip(loss: Tensor) -> None:
            loss.item()
            check(request)

        yield {
            BARE: (bare, lambda loss: None),
            CONTROL: (again, lambda loss: None),
            CONSTANT: (one, constant.step),
            DECAYING: (other, decaying.step),
            **{
                name: (own, stack.enter_context(scripted(training, own, LR, *MEASURES[name])).step)
                for name, own in measuring.items()
            },
            ROUND_TRIP: (third, round_trip),
        }


def measure(server: str, repeats: int, rounds: int, console: Console) -> dict[str, FloatArray]:
    """Seconds a step, by loop: shape (repeats, rounds, 2), the last axis being wall and processor time."""
    times: dict[str, list[list[tuple[float, float]]]] = {}
    for seed in track(range(repeats), "training steps", console=console, transient=True):
        training = Training(seed)
        generator = random.Random(seed)
        with loops(training, server, seed) as compared:
            names = list(compared)
            own: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for _ in range(WARM_UP_BLOCKS + rounds):
                for name in generator.sample(names, len(names)):
                    own[name].append(training.block(compared[name]))
        for name, blocks in own.items():
            times.setdefault(name, []).append(blocks[WARM_UP_BLOCKS:])
    return {name: np.array(blocks) for name, blocks in times.items()}


def alone(repeats: int, console: Console) -> dict[str, dict[str, Any]]:
    """The hook in a tight loop: time a step, and bytes that it kept."""
    results: dict[str, dict[str, Any]] = {}
    for name, end_lr in ((CONSTANT, LR), (DECAYING, 0.0)):
        seconds = []
        for seed in track(range(repeats), f"{name}, alone", console=console, transient=True):
            training = Training(seed)
            with scripted(training, training.optimizer(), end_lr) as tuner:
                loss = torch.tensor(1.0, requires_grad=True) * 1.0
                _run_alone(tuner, loss)
                start = time.perf_counter()
                _run_alone(tuner, loss)
                seconds.append((time.perf_counter() - start) / ALONE_STEPS)
        results[name] = {
            **_spread(np.array(seconds) * 1e6, "us"),
            "share_of_step": float(np.median(seconds)) / BUDGET_STEP_S,
            "bytes_kept": _bytes_kept(end_lr),
        }
    return results


def _run_alone(tuner: lrpilot.Tuner, loss: Tensor) -> None:
    for _ in range(ALONE_STEPS):
        tuner.step(loss)


def _bytes_kept(end_lr: float) -> int:
    """Python memory that `ALONE_STEPS` steps allocate and don't release."""
    with scripted(training := Training(0), training.optimizer(), end_lr) as tuner:
        loss = torch.tensor(1.0)
        _run_alone(tuner, loss)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            _run_alone(tuner, loss)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return after - before


def summarise(times: dict[str, FloatArray]) -> list[dict[str, Any]]:
    """One row for each loop: medians over the rounds of a repeat, and their spread over repeats."""
    bare = np.median(times[BARE], axis=1)
    rows = []
    for name, samples in times.items():
        medians = np.median(samples, axis=1)
        wall, cpu = medians.T
        ratio_wall, ratio_cpu = (medians / bare).T
        rows.append(
            {
                "loop": name,
                **_spread(wall * 1e3, "wall_ms"),
                **_spread(cpu * 1e3, "cpu_ms"),
                **_spread(ratio_wall, "ratio_wall"),
                **_spread(ratio_cpu, "ratio_cpu"),
                "samples_wall_s": samples[..., 0].tolist(),
                "samples_cpu_s": samples[..., 1].tolist(),
            }
        )
    return rows


def _spread(samples: FloatArray, name: str) -> dict[str, Any]:
    """Median, range and the samples themselves, one for each repeat."""
    return {
        f"median_{name}": float(np.median(samples)),
        f"range_{name}": [float(np.min(samples)), float(np.max(samples))],
        f"{name}_by_repeat": samples.tolist(),
    }


def show(rows: list[dict[str, Any]], hook: dict[str, dict[str, Any]], console: Console) -> None:
    table = Table("loop", "step ms", "wall / bare", "range", "CPU / bare", "range")
    alone_table = Table("alone", "us", "range", f"of {BUDGET_STEP_S * 1e3:g} ms", "bytes kept")
    for column in (*table.columns[1:], *alone_table.columns[1:]):
        column.justify = "right"
    for row in rows:
        table.add_row(
            row["loop"],
            f"{row['median_wall_ms']:.2f}",
            f"{row['median_ratio_wall']:.3f}",
            "{:.2f}-{:.2f}".format(*row["range_ratio_wall"]),
            f"{row['median_ratio_cpu']:.3f}",
            "{:.2f}-{:.2f}".format(*row["range_ratio_cpu"]),
        )
    for name, own in hook.items():
        alone_table.add_row(
            name,
            f"{own['median_us']:.2f}",
            "{:.2f} - {:.2f}".format(*own["range_us"]),
            f"{own['share_of_step']:.2%}",
            str(own["bytes_kept"]),
        )
    console.print(table, alone_table)
    console.print(f"budget of the hook: {BUDGET_SHARE:.0%} of a step of {BUDGET_STEP_S * 1e3:g} ms")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The ratios of every repeat, by wall and by processor time."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    compared = [row for row in rows if row["loop"] != BARE]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for clock, color, offset in (("wall", "tab:blue", -0.12), ("cpu", "tab:orange", 0.12)):
        for i, row in enumerate(compared):
            added = (np.array(row[f"ratio_{clock}_by_repeat"]) - 1) * 100
            axes.plot(added, np.full(len(added), i + offset), "o", color=color, label=None if i else f"{clock} time")
    axes.axvline(BUDGET_SHARE * 100, color="tab:red", linestyle="--", label="the hook's budget")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(compared)), [row["loop"] for row in compared])
    axes.invert_yaxis()
    axes.set(xlabel="added to the bare step (%), a point for each repeat")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what the hook costs on an ordinary step.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--repeats", type=int, default=5, help="networks, each with a job of its own")
    parser.add_argument("--rounds", type=int, default=50, help="blocks of every loop in a repeat")
    arguments = parser.parse_args()

    console = Console()
    torch.set_num_threads(1)
    hook = alone(arguments.repeats, console)
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(EmbeddedServer(f"sqlite:///{directory}/jobs.db")) as server,
    ):
        rows = summarise(measure(server.target, arguments.repeats, arguments.rounds, console))
    show(rows, hook, console)
    results = {
        "environment": environment("torch", "grpcio", "protobuf", threads=torch.get_num_threads()),
        "loops": rows,
        "alone": hook,
    }
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
