"""Probes leave no trace on a device, for every optimizer, wherever the snapshot lives, in random numbers either."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.training.device_training import NETS, OPTIMIZERS, DeviceRun, assert_no_trace

QUICK = (
    ("adamw, fused, tensor lr", "images", "device"),
    ("sgd with momentum", "images", "host"),
    ("adamw", "language", "device"),
)
"""What runs on a CPU in every suite, too."""
CASES = [
    pytest.param(optimizer, net, place, marks=[] if (optimizer, net, place) in QUICK else pytest.mark.slow)
    for optimizer in OPTIMIZERS
    for net in NETS
    for place in ("device", "host")
]


@pytest.mark.parametrize(("optimizer", "net", "place"), CASES)
def test_a_tuned_run_is_the_one_by_hand(device: torch.device, optimizer: str, net: str, place: str) -> None:
    _, log = assert_no_trace(lambda: DeviceRun(device, net, optimizer), snapshot=place)
    assert pb.OUTCOME_DIVERGED in log.outcomes or net == "language" or not optimizer.startswith("adamw")


@pytest.mark.slow
def test_a_snapshot_on_disk_and_one_that_finds_its_place(device: torch.device, tmp_path: Path) -> None:
    for place in (str(tmp_path), "auto"):
        assert_no_trace(lambda: DeviceRun(device), snapshot=place)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize(
    "optimizer", [each if each == "adamw, fused" else pytest.param(each, marks=pytest.mark.slow) for each in OPTIMIZERS]
)
def test_what_was_there_comes_back_where_it_was(device: torch.device, optimizer: str, place: str) -> None:
    run = DeviceRun(device, "language", optimizer)
    for number in range(3):
        run.step(number)
    addresses, before = run.addresses(), run.bits()
    gradients = [p.grad.clone() for p in run.model.parameters() if p.grad is not None]
    snapshot = Snapshot(run.model, run.optimizers, {}, place)
    snapshot.take()
    for _ in range(2):
        run.set_lrs([lr * 50 for lr in run.lrs()])
        for number in range(3, 6):
            run.step(number)
        snapshot.restore()
        assert run.addresses() == addresses
        assert run.bits() == before
        now = [p.grad for p in run.model.parameters() if p.grad is not None]
        assert all(map(torch.equal, now, gradients))
