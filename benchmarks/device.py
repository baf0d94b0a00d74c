"""What the hook and the snapshot cost on a device: at a step of two milliseconds, and against a plain copy.

    python -m benchmarks.device [--device cuda] [--json device.json]

Needs nothing but PyTorch and the client. On a GPU it ends with 1 where an aim is missed:

- *hook*: a step with the hook takes at most 2% longer than the bare one, beyond what a second bare loop strays by. The
  loops take turns in short blocks, in an order drawn anew each round; what counts is the ratio of medians. With one
  parameter group and with twenty, with a plain LR and one in a tensor, constant and decaying.
- *snapshot*: `take` and `restore` of a model with AdamW's state reach 90% of the bandwidth of one flat tensor's copy to
  where the snapshot lives, and back. Each way is timed in every round; shares are within a round.

Without a GPU the same is measured on the CPU, small, in processor time where steps are timed, and nothing is required
of it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lrpilot
import torch
from lrpilot.backends.torch.rollback.memory import nbytes
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional

LR = 1e-3
HORIZON = 1_000_000
STEP_S = 2e-3
HOOK_AIM, SNAPSHOT_AIM = 1.02, 0.9
LOOPS = ["bare", "bare again", "constant", "decaying"]
WIDTH = 256
"""Each of the layers that make a step is so wide; their number is what makes it long."""


class Training:
    """A stack of layers, updated by AdamW."""

    def __init__(self, device: torch.device, depth: int, n_groups: int, *, tensor: bool) -> None:
        torch.manual_seed(0)
        layers = [layer for _ in range(depth) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.device = device
        self.model = nn.Sequential(*layers, nn.Linear(WIDTH, 10)).to(device)
        parameters = list(self.model.parameters())
        chunks = [parameters[k::n_groups] for k in range(min(n_groups, len(parameters)))]
        groups = [{"params": each, "lr": torch.tensor(LR, device=device) if tensor else LR} for each in chunks]
        capturable = tensor and device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=LR, foreach=device.type == "cuda" or None, capturable=capturable)
        self.x, self.y = torch.randn(64, WIDTH, device=device), torch.randint(10, (64,), device=device)

    def step(self) -> torch.Tensor:
        """One update; gives its loss."""
        loss = functional.cross_entropy(self.model(self.x), self.y)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def block(self, n_steps: int, after: Callable[[torch.Tensor], object]) -> float:
        """Seconds a step."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        started = clock()
        for _ in range(n_steps):
            after(self.step())
        wait(self.device)
        return (clock() - started) / n_steps


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def tuner_of(training: Training, end_lr: float) -> lrpilot.Tuner:
    """Committed steps from the LR to another, reported after all that are made here."""
    shape = "linear" if end_lr != LR else "constant"
    profile = pb.Profile(shape=shape, start_lr=LR, end_lr=end_lr, length=HORIZON)
    directive = pb.Directive(phase=pb.PHASE_TRAIN, n_steps=HORIZON, profile=profile)
    transport = ScriptedTransport([directive])
    return lrpilot.Tuner(training.model, training.optimizer, transport=transport, total_steps=HORIZON)


def depth_of_a_step(device: torch.device) -> int:
    """Layers whose update takes about two milliseconds."""
    depth = 8
    for _ in range(3):
        training = Training(device, depth, 1, tensor=False)
        training.block(5, lambda _: None)
        took = statistics.median(training.block(5, lambda _: None) for _ in range(5))
        depth = min(max(round(depth * STEP_S / took), 2), 400)
    return depth


def hook_cost(device: torch.device, depth: int, n_groups: int, *, tensor: bool, rounds: int) -> dict[str, float]:
    """The step's milliseconds, and what the loops take of it."""
    trainings = {loop: Training(device, depth, n_groups, tensor=tensor) for loop in LOOPS}
    with tuner_of(trainings["constant"], LR) as constant, tuner_of(trainings["decaying"], 0.0) as decaying:
        after: dict[str, Callable[[torch.Tensor], object]] = {"constant": constant.step, "decaying": decaying.step}
        times: dict[str, list[float]] = {loop: [] for loop in LOOPS}
        order = random.Random(0)
        for turn in range(rounds + 3):
            for loop in order.sample(LOOPS, len(LOOPS)):
                took = trainings[loop].block(10, after.get(loop, lambda _: None))
                if turn >= 3:
                    times[loop].append(took)
    medians = {loop: statistics.median(took) for loop, took in times.items()}
    return {"ms": medians["bare"] * 1e3} | {loop: medians[loop] / medians["bare"] for loop in LOOPS[1:]}


def bandwidth(device: torch.device, n_parameters: int, place: str, rounds: int) -> dict[str, float]:
    """Bytes a second of a plain copy, and the snapshot's shares of it."""
    width = 2048 if device.type != "cpu" else 512
    layers = (nn.Linear(width, width, device=device) for _ in range(max(n_parameters // (width * width), 1)))
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    state = [v for each in optimizer.state.values() for v in each.values() if isinstance(v, torch.Tensor)]
    size = sum(map(nbytes, [*model.parameters(), *state]))
    flat = torch.ones(size // 4, device=device)
    host = place == "host" and device.type != "cpu"
    away = torch.empty(size // 4, pin_memory=True) if host else torch.empty_like(flat)
    snapshot = Snapshot(model, [optimizer], {}, place)
    snapshot.take()
    ways: dict[str, Callable[[], object]] = {
        "out": lambda: away.copy_(flat, non_blocking=True),
        "in": lambda: flat.copy_(away, non_blocking=True),
        "take": snapshot.take,
        "restore": snapshot.restore,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds + 2):
        for way, act in ways.items():
            wait(device)
            started = time.perf_counter()
            act()
            wait(device)
            times[way].append(time.perf_counter() - started)
    took = {way: each[2:] for way, each in times.items()}
    return {
        "GB": size / 1e9,
        "plain GB/s": size / statistics.median(took["out"]) / 1e9,
        "take": statistics.median(a / b for a, b in zip(took["out"], took["take"], strict=True)),
        "restore": statistics.median(a / b for a, b in zip(took["in"], took["restore"], strict=True)),
    }


def measured(device: torch.device) -> tuple[dict[str, Any], list[str]]:
    """All figures, and what misses its aim."""
    small = device.type == "cpu"
    figures: dict[str, Any] = {}
    missed = []
    depth = depth_of_a_step(device)
    for n_groups, tensor in ((1, False), (1, True), (20, False), (20, True)):
        name = f"hook, {n_groups} groups, {'tensor' if tensor else 'plain'} LR"
        found = hook_cost(device, max(depth, n_groups // 2), n_groups, tensor=tensor, rounds=10 if small else 30)
        figures[name] = found
        noise = abs(found["bare again"] - 1)
        missed += [f"{name}, {loop}" for loop in ("constant", "decaying") if found[loop] > HOOK_AIM + noise]
        print(name, {key: round(value, 3) for key, value in found.items()}, flush=True)
    for place in ("device", "host"):
        for n_parameters in (2_000_000,) if small else (100_000_000, 500_000_000):
            name = f"snapshot, {n_parameters // 1_000_000} million weights, {place}"
            figures[name] = found = bandwidth(device, n_parameters, place, rounds=5 if small else 10)
            missed += [f"{name}, {way}" for way in ("take", "restore") if found[way] < SNAPSHOT_AIM]
            print(name, {key: round(value, 3) for key, value in found.items()}, flush=True)
    return figures, missed


def main() -> int:
    """Measures, and says what misses its aim."""
    parser = argparse.ArgumentParser(description="What the hook and the snapshot cost on a device.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU; nothing is required of it"
    print(f"on {name}, PyTorch {torch.__version__}")
    figures, missed = measured(device)
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": name, "figures": figures, "missed": missed}, indent=1) + "\n")
    for each in missed:
        print(f"misses its aim: {each}")
    return 1 if missed and device.type != "cpu" else 0


if __name__ == "__main__":
    sys.exit(main())
