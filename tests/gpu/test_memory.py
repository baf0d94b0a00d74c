"""A device whose memory runs out: what was remembered stays, nothing is left over, and a run that has begun goes on."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.backends.torch.rollback.memory import DeviceMemory, nbytes
from lrpilot.backends.torch.rollback.placement import RESERVE
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.transport.scripted import ScriptedTransport
from torch import nn

from tests.support.training.device_training import LR, Numbers
from tests.support.training.scripted_directives import probe, training

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA tells how much memory it has")


class Wide:
    """Layers with so much memory behind them that a limit on it can be felt: 100 MB on a GPU."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        width = 2048 if device.type == "cuda" else 32
        self.device = device
        self.model = nn.Sequential(*(nn.Linear(width, width) for _ in range(6))).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LR, fused=True
        )  # needs no memory beside its state
        self._x = torch.randn(8, width, device=device)

    @property
    def size(self) -> int:
        return sum(p.nbytes for p in self.model.parameters())

    def step(self) -> torch.Tensor:
        loss: torch.Tensor = self.model(self._x).square().mean()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    @contextlib.contextmanager
    def limited(self, more: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Inside a GPU gives no more than so many bytes beside what it has given; a CPU gives no snapshot any."""
        if self.device.type != "cuda":
            with monkeypatch.context() as patch:
                patch.setattr(DeviceMemory, "allocate", _no_memory)
                yield
            return
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


def _no_memory(*_: Any) -> Any:
    raise torch.OutOfMemoryError("no room")


def held(device: torch.device) -> int:
    """Bytes of the device's memory that tensors have."""
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def test_a_take_without_room_leaves_what_was_remembered_and_nothing_else(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Wide(device)
    snapshot = Snapshot(run.model, [run.optimizer], {}, "device")
    snapshot.take()  # with no state of the optimizer yet
    first = [p.detach().clone() for p in run.model.parameters()]
    run.step()
    with run.limited(run.size // 2, monkeypatch):
        before = held(device)
        with pytest.raises(torch.OutOfMemoryError):
            snapshot.take()
        assert held(device) - before < run.size // 10
    snapshot.restore()
    assert all(map(torch.equal, run.model.parameters(), first))
    run.step()
    snapshot.take()
    present = [p.detach().clone() for p in run.model.parameters()]
    run.step()
    snapshot.restore()
    assert all(map(torch.equal, run.model.parameters(), present))


def test_a_run_that_has_begun_goes_on_without_a_search(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Wide(device)
    script = [training(LR, 5), probe(LR, 5, first=True), training(LR, 10, restore=True)]
    n_calls = 0
    with contextlib.ExitStack() as stack:
        tuner = stack.enter_context(
            lrpilot.Tuner(
                run.model, run.optimizer, transport=ScriptedTransport(script), total_steps=20, snapshot="device"
            )
        )
        for _ in tuner.batches(Numbers()):
            loss = run.step()
            n_calls += 1
            if n_calls == 4:
                stack.enter_context(run.limited(int(1.6 * run.size), monkeypatch))  # for gradients, not for a snapshot
            tuner.step(loss)
    assert (n_calls, tuner.committed_step, tuner.search_steps) == (20, 20, 0)
    assert "OutOfMemoryError" in caplog.text


def test_a_run_that_has_not_begun_says_so(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Wide(device)
    script = [probe(LR, 5, first=True), training(LR, 5, restore=True)]
    with run.limited(run.size // 2, monkeypatch), pytest.raises(torch.OutOfMemoryError):
        lrpilot.Tuner(run.model, run.optimizer, transport=ScriptedTransport(script), total_steps=10, snapshot="device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("place", ["device", "host"])
def test_a_snapshot_takes_as_much_of_the_device_as_it_says(place: str) -> None:
    device = torch.device("cuda")
    run = Wide(device)
    run.step()
    torch.cuda.synchronize()
    state = [value for each in run.optimizer.state.values() for value in each.values()]
    size = sum(map(nbytes, [*run.model.parameters(), *state]))
    before = held(device)
    torch.cuda.reset_peak_memory_stats()
    snapshot = Snapshot(run.model, [run.optimizer], {}, place)
    for _ in range(2):
        snapshot.take()
        snapshot.restore()
    wanted = size if place == "device" else 0
    assert snapshot.nbytes == size
    assert abs(held(device) - before - wanted) < 0.02 * size + 1e6  # an allocator rounds
    assert torch.cuda.max_memory_allocated() - before < wanted + 0.02 * size + 1e6


@pytest.mark.gpu
@needs_cuda
def test_a_device_that_is_nearly_full_has_its_snapshot_on_the_host() -> None:
    device = torch.device("cuda")
    run = Wide(device)
    assert str(Snapshot(run.model, [run.optimizer], {}, "auto")._memory) == "on the device"
    free, total = torch.cuda.mem_get_info()
    filler = torch.empty(max(int(free - RESERVE * total / 2), 0), dtype=torch.uint8, device=device)
    assert str(Snapshot(run.model, [run.optimizer], {}, "auto")._memory) == "in host memory"
    del filler
    torch.cuda.empty_cache()
