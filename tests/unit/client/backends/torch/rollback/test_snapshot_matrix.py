"""A probe leaves no trace: every optimizer of torch.optim, whatever state it is in, wherever the snapshot lives.

What is compared is not only the state after the rollback, but each of the steps that follow, bit for bit, with those of
a run that never probed.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

N_PROBE_STEPS, N_STEPS = 3, 20

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, foreach=True),
    "SGD nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), fused=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "AdamW amsgrad fused": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, lr=0.01, fused=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01, t0=2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2, history_size=3),
    "SparseAdam": lambda p: torch.optim.SparseAdam(p, lr=0.01),
}
if hasattr(torch.optim, "Muon"):  # PyTorch has it since 2.9
    OPTIMIZERS["Muon"] = lambda p: torch.optim.Muon(p, lr=0.01)
# capturable=True is left out: PyTorch has it on accelerators only. It makes step counts tensors of the device, as fused
# does here.


class Net(nn.Module):
    """Something to train, from (n, 3) to (n, 1)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *layers, nn.Linear(4, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


class Scale(nn.Module):
    """A parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class Cast(nn.Linear):
    """A layer of another type than its neighbours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).float()


class Strided(nn.Module):
    """Weights that are a transposed matrix and every second column of one."""

    def __init__(self) -> None:
        super().__init__()
        self.transposed = nn.Parameter(torch.randn(4, 4).t())
        self.sliced = nn.Parameter(torch.randn(4, 8)[:, ::2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(functional.linear(x, self.transposed).tanh(), self.sliced)


def tied() -> Net:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return Net(first, nn.Tanh(), second)


def frozen() -> Net:
    net = Net(nn.Linear(4, 4).requires_grad_(False))
    net.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    return net


NETS: dict[str, Callable[[], Net]] = {
    "fresh": Net,
    "warm": Net,
    "tied weights": tied,
    "mixed types": lambda: Net(Cast(4, 4, dtype=torch.float64), Cast(4, 4, dtype=torch.bfloat16)),
    "frozen and unused": frozen,
    "empty group": Net,
    "non-contiguous": lambda: Net(Strided()),
    "no dimensions": lambda: Net(Scale()),
    "batch norm": lambda: Net(nn.BatchNorm1d(4)),
    "dropout": lambda: Net(nn.Dropout(0.5)),
    "registered": Net,
}
# What PyTorch itself can't do, or not twice alike.
IMPOSSIBLE = {
    ("LBFGS", "non-contiguous"),  # "view size is not compatible"
    ("LBFGS", "empty group"),  # "doesn't support per-parameter options"
    ("SGD fused", "mixed types"),  # elements of a new bfloat16 momentum are never written: two equal runs differ
    ("LBFGS", "registered"),  # GradScaler: "closure use is not currently supported"
}


class Run:
    """A training run whose batches come from the global random state."""

    def __init__(self, optimizer: str, state: str) -> None:
        torch.manual_seed(0)
        self.net: nn.Module
        if optimizer == "SparseAdam":
            self.net = nn.Embedding(12, 1, sparse=True)
        else:
            self.net = NETS[state]()
        # Muon is for matrices.
        parameters = [p for p in self.net.parameters() if optimizer != "Muon" or p.ndim == 2]
        groups = [{"params": parameters}, {"params": []}] if state == "empty group" else [{"params": parameters}]
        self.optimizer = OPTIMIZERS[optimizer](groups)
        self.registered: dict[str, Any] = {}
        if state == "registered":
            self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
            self.ema = AveragedModel(self.net, use_buffers=True)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.9)
            self.registered = {"scaler": self.scaler, "ema": self.ema, "scheduler": self.scheduler}
        self.steps(0 if state == "fresh" else 2)

    def steps(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.step()

    def step(self) -> None:
        if isinstance(self.net, nn.Embedding):
            x, target = torch.randint(12, (5,)), torch.randn(5, 1)
        else:
            x = torch.randn(5, 3)
            target = x.sum(1, keepdim=True)

        def loss() -> torch.Tensor:
            self.optimizer.zero_grad()
            return functional.mse_loss(self.net(x), target)

        def closure() -> float:
            value = loss()
            torch.autograd.backward(value)
            return value.item()

        if not self.registered:
            self.optimizer.step(closure)
            return
        torch.autograd.backward(self.scaler.scale(loss()))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update_parameters(self.net)
        self.scheduler.step()

    def probe(self) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(0.7)
            else:
                group["lr"] = 0.7
        self.steps(N_PROBE_STEPS)
        self.optimizer.zero_grad()

    def tensors(self) -> list[torch.Tensor]:
        return [leaf for leaf in self._leaves() if isinstance(leaf, torch.Tensor)]

    def bits(self) -> list[object]:
        """Everything that steps change, tensors as bytes: NaN equals itself, and zero is not minus zero."""
        return [_bytes(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves()]

    def _leaves(self) -> Iterator[Any]:
        yield from self.net.parameters()
        yield from self.net.buffers()
        yield from _leaves(list(self.optimizer.state.values()))
        yield from (group["lr"] for group in self.optimizer.param_groups)
        if self.registered:
            yield from self.ema.parameters()
            yield from self.ema.buffers()
            yield from _leaves([self.scaler.state_dict(), self.scheduler.state_dict()])


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from _leaves(list(value.items()))
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _leaves(child)
    else:
        yield value


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@functools.cache
def never_probed(optimizer: str, state: str) -> list[list[object]]:
    run = Run(optimizer, state)
    bits = [run.bits()]
    for _ in range(N_STEPS):
        run.step()
        bits.append(run.bits())
    return bits


CASES = [(optimizer, state) for optimizer in OPTIMIZERS for state in NETS if (optimizer, state) not in IMPOSSIBLE]
CASES = [case for case in CASES if case[0] != "SparseAdam" or case[1] in ("fresh", "warm", "registered")]


@pytest.mark.parametrize(
    "placement",
    # On the CPU host memory is where the device's is: the same code, but for where it is chosen.
    ["device", pytest.param("host", marks=pytest.mark.slow), "disk"],
)
@pytest.mark.parametrize(("optimizer", "state"), CASES)
def test_a_probe_leaves_no_trace(optimizer: str, state: str, placement: str) -> None:
    expected = never_probed(optimizer, state)
    run = Run(optimizer, state)
    snapshot = Snapshot(run.net, [run.optimizer], run.registered, placement)
    before, addresses = run.bits(), [t.data_ptr() for t in run.tensors()]
    assert before == expected[0]

    snapshot.take()
    run.probe()
    assert run.bits() != before
    snapshot.restore()

    assert run.bits() == before
    assert [t.data_ptr() for t in run.tensors()] == addresses
    for step in range(1, N_STEPS + 1):
        run.step()
        assert run.bits() == expected[step], f"step {step}"
