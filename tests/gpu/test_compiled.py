"""Compiled models and steps: a tuner has nothing compiled that the run alone would not, and leaves no trace."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.support.training.device_training import DeviceRun, assert_no_trace, script, tuned

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


def graphs(run: DeviceRun, counter: Any, n_steps: int) -> int:
    for number in range(n_steps):
        run.step(number)
    return int(counter.frame_count)


@pytest.mark.parametrize("net", ["images", "language"])
def test_a_compiled_model_is_compiled_once(device: torch.device, net: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    tuned(DeviceRun(device, net, compiled=counter), script(wild=30))
    assert counter.frame_count == 1


@pytest.mark.parametrize("optimizer", ["adamw, capturable, tensor lr", "sgd with momentum", "rmsprop", "adamw"])
def test_a_compiled_step_is_compiled_as_often_as_without_probes(device: torch.device, optimizer: str) -> None:
    """The snapshot is from before the first step, and has no state. A plain LR that moves is compiled once more.

    That is dynamo's count: what is behind it may compile at every LR, whoever sets it.
    """
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    alone = graphs(DeviceRun(device, "images", optimizer, compiled_step=counter), counter, 4)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    tuned(DeviceRun(device, "images", optimizer, compiled_step=counter), script(wild=30))
    assert counter.frame_count <= alone + ("tensor lr" not in optimizer)


@pytest.mark.parametrize("optimizer", ["adamw, capturable, tensor lr", "sgd with momentum"])
def test_a_compiled_step_leaves_no_trace(device: torch.device, optimizer: str) -> None:
    def make() -> DeviceRun:
        torch._dynamo.reset()
        return DeviceRun(device, "images", optimizer, compiled_step="aot_eager", dropout=0.0)

    assert_no_trace(make, script(wild=30))


@pytest.mark.parametrize("optimizer", ["adamw, fused, tensor lr", "adamw, capturable, tensor lr"])
def test_the_usual_compiler_compiles_nothing_for_an_lr_in_a_tensor(device: torch.device, optimizer: str) -> None:
    """For an LR that is a number it may compile at every change, whoever makes it."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("there is no compiler of C++")
    torch._dynamo.reset()
    alone = CompileCounterWithBackend("inductor")
    graphs(DeviceRun(device, "images", optimizer, compiled_step=alone), alone, 3)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    tuned(DeviceRun(device, "images", optimizer, compiled_step=counter), script(wild=30))
    assert counter.frame_count <= alone.frame_count


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_the_usual_compiler_leaves_no_trace_and_losses_are_the_models_own(device: torch.device, mode: str) -> None:
    """With less overhead, on a GPU, a loss lies in memory of a graph, which the next step writes to."""
    if mode != "default" and device.type == "cpu":
        pytest.skip("graphs are CUDA's")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("there is no compiler of C++")

    def make() -> DeviceRun:
        torch._dynamo.reset()
        return DeviceRun(device, "language", "adamw", compiled="inductor", compiler_mode=mode)

    _, log = assert_no_trace(make, script(wild=30))
    assert [loss.item() for loss in log.losses] == log.reported
