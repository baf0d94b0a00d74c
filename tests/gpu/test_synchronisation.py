"""The host waits for the device where a report needs the losses, and nowhere else."""

from __future__ import annotations

import collections
import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.training.device_training import LR, DeviceRun, Numbers
from tests.support.training.scripted_directives import probe, training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA tells of its synchronisations"),
]
CUDA = torch.device("cuda")


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The synchronising calls that are made inside, as CUDA tells of them."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [str(each.message) for each in caught if "called a synchronizing" in str(each.message)]


def directives() -> list[pb.Directive]:
    """Probes shorter and longer than sixteen steps; a decay with looks in it."""
    decay = training(LR, 240, restore=True)
    decay.profile.CopyFrom(pb.Profile(shape="linear", start_lr=LR, end_lr=0.0, length=240))
    return [probe(LR, 8, first=True), probe(LR * 3, 24), decay]


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw, fused", "adamw, fused, tensor lr", "sgd with momentum"])
def test_no_step_within_a_directive_waits(optimizer: str, place: str) -> None:
    run = DeviceRun(CUDA, "images", optimizer)
    script = directives()
    ends = {8, 32, 272}
    waited: collections.Counter[int] = collections.Counter()
    with lrpilot.Tuner(
        run.model, run.optimizers, transport=ScriptedTransport(script), total_steps=272, snapshot=place
    ) as tuner:
        for done, number in enumerate(tuner.batches(Numbers()), start=1):
            loss = run.step(number)
            with counted() as found:
                tuner.step(loss)
            waited[done] += len(found)
    assert {step for step, n in waited.items() if n} <= ends


def test_neither_do_the_batches_of_a_probe() -> None:
    run = DeviceRun(CUDA)
    script = [probe(LR, 30, first=True), training(LR, 2, restore=True)]
    with lrpilot.Tuner(run.model, run.optimizers, transport=ScriptedTransport(script), total_steps=32) as tuner:
        batches = tuner.batches(Numbers())
        for done in range(1, 30):
            with counted() as found:
                number = next(batches)
            assert done == 1 or not found
            tuner.step(run.step(number))


@pytest.mark.parametrize("place", ["device", "host", "disk"])
def test_a_restore_does_not_wait_nor_does_a_take_in_memory(place: str, tmp_path: Path) -> None:
    run = DeviceRun(CUDA, "language")
    for number in range(3):
        run.step(number)
    snapshot = Snapshot(run.model, run.optimizers, {}, str(tmp_path) if place == "disk" else place)
    snapshot.take()
    with counted() as taking:
        snapshot.take()
    with counted() as restoring:
        snapshot.restore()
    assert not restoring or place == "disk"
    assert not taking or place == "disk"


@pytest.mark.parametrize("n_steps", [8, 64])
def test_the_host_runs_ahead_of_a_busy_device(n_steps: int) -> None:
    """The looks within a probe wait for steps that are four old, and not for the present one."""
    run = DeviceRun(CUDA)
    script = [probe(LR, n_steps, first=True), training(LR, 1, restore=True)]
    behind = []
    with lrpilot.Tuner(
        run.model, run.optimizers, transport=ScriptedTransport(script), total_steps=n_steps + 1
    ) as tuner:
        done: list[Any] = [torch.Event("cuda") for _ in range(n_steps)]
        for step, number in enumerate(tuner.batches(Numbers())):
            torch.cuda._sleep(10_000_000)  # type: ignore[no-untyped-call]  # some milliseconds
            loss = run.step(number)
            done[step].record()
            if step == n_steps - 1:
                break
            tuner.step(loss)
            behind.append(not done[step].query())
    assert all(behind)
