"""Distributed tensors: FSDP2 in a group of one process."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # Exported by a star.
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


@pytest.fixture(autouse=True)
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Run:
    def __init__(self, mesh: DeviceMesh, placement: str | Path = "device") -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.BatchNorm1d(6), nn.Linear(6, 1))
        fully_shard(self.net[0], mesh=mesh)
        # The shards of the root are put back after a backward pass, and not after a forward pass alone.
        fully_shard(self.net, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.01)
        self.snapshot = Snapshot(self.net, [self.optimizer], {}, placement)

    def steps(self, n_steps: int) -> None:
        for _ in range(n_steps):
            x = torch.randn(8, 4)
            loss = (self.net(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()

    @torch.no_grad()
    def validate(self) -> float:
        self.net.eval()
        loss: torch.Tensor = self.net(torch.ones(8, 4)).square().mean()
        self.net.train()
        return loss.item()

    def probe(self) -> None:
        self.optimizer.param_groups[0]["lr"] = 1.0
        self.steps(3)
        self.validate()
        self.optimizer.zero_grad()

    def shards(self) -> list[torch.Tensor]:
        state = [t for s in self.optimizer.state.values() for t in s.values()]
        tensors = [*self.optimizer.param_groups[0]["params"], *self.net.buffers(), *state]
        return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]

    def values(self) -> list[torch.Tensor]:
        return [t.detach().clone() for t in self.shards()]


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b)
    assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("validated", [False, True], ids=["", "validated before"])
@pytest.mark.parametrize("warm_up", [0, 2], ids=["fresh", "warm"])
@pytest.mark.parametrize("placement", ["device", "disk"])
def test_steps_after_a_probe_are_bitwise_those_without(
    mesh: DeviceMesh, placement: str, warm_up: int, validated: bool
) -> None:
    plain, probed = Run(mesh), Run(mesh, placement)
    expected = []
    torch.manual_seed(1)
    plain.steps(warm_up)
    for _ in range(20):
        plain.steps(1)
        expected.append(plain.values())

    torch.manual_seed(1)
    probed.steps(warm_up)
    if validated:
        probed.validate()
    probed.snapshot.take()
    addresses = [t.data_ptr() for t in probed.shards()]
    loss = probed.validate()
    for _ in range(2):
        probed.probe()
        probed.snapshot.restore()
        assert [t.data_ptr() for t in probed.shards()] == addresses
        assert probed.validate() == loss
        probed.snapshot.restore()
    for step in expected:
        probed.steps(1)
        assert_equal(probed.values(), step)


def test_only_the_shards_of_this_process_are_held(mesh: DeviceMesh) -> None:
    run = Run(mesh)
    run.steps(1)
    run.optimizer.zero_grad()
    run.snapshot.take()
    assert run.snapshot.nbytes == run.snapshot.expected_nbytes == sum(t.nbytes for t in run.shards())
    assert run.snapshot._taken
    assert not any(isinstance(t, DTensor) for t in run.snapshot._taken.all_copies)


def test_no_communication(mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(mesh)
    run.steps(1)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("communication")

    for name in ("all_gather_into_tensor", "all_reduce", "broadcast", "reduce_scatter_tensor", "barrier"):
        monkeypatch.setattr(dist, name, refuse)
    run.snapshot.take()
    run.snapshot.restore()
    run.snapshot.load_state_dict(run.snapshot.state_dict())


def test_gradients_that_the_probe_let_go_come_back_distributed(mesh: DeviceMesh) -> None:
    run = Run(mesh)
    run.steps(1)
    gradients = [p.grad for p in run.net.parameters()]
    expected = [g.to_local().clone() for g in gradients if isinstance(g, DTensor)]
    assert len(expected) == len(gradients)
    run.snapshot.take()
    run.probe()
    run.snapshot.restore()
    restored = [p.grad for p in run.net.parameters()]
    assert_equal([g.to_local() for g in restored if isinstance(g, DTensor)], expected)
    run.optimizer.step()


def test_a_checkpoint_holds_the_snapshot(mesh: DeviceMesh) -> None:
    run = Run(mesh)
    run.steps(2)
    run.snapshot.take()
    remembered = run.values()
    run.steps(2)
    present = run.values()
    file = io.BytesIO()
    torch.save(run.snapshot.state_dict(), file)
    assert_equal(run.values(), present)

    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    again = Run(mesh)
    fresh = again.values()
    again.snapshot.load_state_dict(state)
    assert_equal(again.values(), fresh)
    again.snapshot.restore()
    assert_equal(again.values(), remembered)


def test_asking_for_the_state_frees_no_parameters_that_another_state_refers_to(mesh: DeviceMesh) -> None:
    """After a forward pass alone the root's are whole, and a model's state dict may hold these."""
    run = Run(mesh)
    run.snapshot.take()
    run.steps(1)
    run.validate()
    held = {name: parameter.detach() for name, parameter in run.net.named_parameters()}
    whole = {name: value.clone() for name, value in held.items() if not isinstance(value, DTensor)}
    assert whole
    run.snapshot.state_dict()
    for name, value in whole.items():
        assert held[name].untyped_storage().nbytes() > 0
        assert torch.equal(held[name], value)
    run.steps(1)
