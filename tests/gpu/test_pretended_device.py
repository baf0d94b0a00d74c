"""Nothing that the tuner does at a step within a directive reads a tensor: on a GPU that would wait for it.

The CPU stands in for the device, so that this is known without one. What PyTorch's own functions wait for within, on
CUDA alone, is not seen here.
"""

from __future__ import annotations

import lrpilot
import pytest
import torch
from lrpilot.backends.measures import GRADIENT_L1_NORM, GRADIENT_NORM, UPDATE_NORM, UPDATE_PRODUCT, UPDATE_RATIO
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.backends.pretended_device import PretendedDevice
from tests.support.training.device_training import LR, OPTIMIZERS, DeviceRun, Numbers
from tests.support.training.scripted_directives import probe, training

CPU = torch.device("cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> PretendedDevice:
    return PretendedDevice(monkeypatch)


def directives(*measures: str) -> list[pb.Directive]:
    """Probes shorter and longer than sixteen steps; a decay with looks in it, and measures."""
    decay = training(LR, 70, restore=True)
    decay.profile.CopyFrom(pb.Profile(shape="linear", start_lr=LR, end_lr=0.0, length=70))
    decay.measures.extend(measures)
    return [probe(LR, 8, first=True), probe(LR * 3, 24), decay]


ENDS = {8, 32, 102}


def watch_hooks(device: PretendedDevice, run: DeviceRun) -> None:
    """Has the hooks of optimizers watched that are not yet; measures bring and take away their own."""
    for optimizer in run.optimizers:
        for hooks in (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks):
            hooks.update({key: device.watch(hook) for key, hook in hooks.items()})


def reads_of(device: PretendedDevice, run: DeviceRun, *measures: str) -> dict[int, list[str]]:
    """What read a tensor in the hooks and in the tuner's step, by step."""
    found: dict[int, list[str]] = {}
    script = directives(*measures)
    with lrpilot.Tuner(
        run.model,
        run.optimizers,
        register=run.registered,
        transport=ScriptedTransport(script),
        total_steps=sum(each.n_steps for each in script),
    ) as tuner:
        step = device.watch(tuner.step)
        for number in tuner.batches(Numbers()):
            watch_hooks(device, run)
            loss = run.step(number)
            if run.scaler is None:
                torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
            done = tuner.search_steps + tuner.committed_step
            step(loss)
            found.setdefault(done + 1, []).extend(device.reads)
            device.reads.clear()
    return {done: reads for done, reads in found.items() if reads}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_within_a_directive_reads_a_tensor(device: PretendedDevice, optimizer: str) -> None:
    found = reads_of(device, DeviceRun(CPU, "images", optimizer))
    assert found.keys() <= ENDS
    assert found  # a report reads the losses


@pytest.mark.parametrize("optimizer", ["sgd with momentum", "adamw", "adamw, fused, tensor lr"])
def test_nor_does_one_that_is_measured(device: PretendedDevice, optimizer: str) -> None:
    measures = (GRADIENT_NORM, GRADIENT_L1_NORM, UPDATE_NORM, UPDATE_PRODUCT, UPDATE_RATIO)
    assert reads_of(device, DeviceRun(CPU, "language", optimizer), *measures).keys() <= ENDS


@pytest.mark.parametrize("place", ["device", "host"])
def test_nor_do_a_snapshot_and_its_restoration(device: PretendedDevice, place: str) -> None:
    run = DeviceRun(CPU, "language")
    for number in range(3):
        run.step(number)
    with device.watched():
        snapshot = Snapshot(run.model, run.optimizers, {}, place)
        snapshot.take()
        snapshot.restore()
        snapshot.take()
    run.step(3)
    with device.watched():
        snapshot.restore()
    assert device.reads == []


@pytest.mark.parametrize("optimizer", ["adamw, fused", "sgd, fused"])
def test_nor_does_one_of_a_fused_optimizer_under_a_scaler(device: PretendedDevice, optimizer: str) -> None:
    """The scaler's flag is on the device, and so is what becomes of the loss."""
    run = DeviceRun(CPU, "images", optimizer, autocast=torch.bfloat16, scaler=True)
    run.overflows = lambda number: number % 11 == 5
    found = reads_of(device, run)
    ends = {done for done, reads in found.items() if reads}
    assert len(ends) <= 3 * len(ENDS)  # some more steps are made for those that were skipped
    assert min(ends) >= min(ENDS)


def test_a_divergence_is_seen_by_looks_that_wait_for_no_step_under_four(device: PretendedDevice) -> None:
    run = DeviceRun(CPU)
    script = [probe(LR, 16, first=True), training(LR, 2, restore=True)]
    with lrpilot.Tuner(run.model, run.optimizers, transport=ScriptedTransport(script), total_steps=18) as tuner:
        step = device.watch(tuner.step)
        for number in tuner.batches(Numbers()):
            done = tuner.search_steps
            step(run.step(number) * (float("nan") if number == 3 else 1.0))
            if device.reads:
                break
    assert tuner.search_steps == done + 1 == 8
