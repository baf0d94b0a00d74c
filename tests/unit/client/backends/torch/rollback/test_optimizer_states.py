"""What a compiled or a captured step has made stays in its place through a rollback, and is as new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim import Optimizer

LR = 0.05
Make = Callable[[Any], Optimizer]

KEPT: dict[str, Make] = {
    "adam": lambda p: torch.optim.Adam(p, lr=LR),
    "adam with amsgrad": lambda p: torch.optim.Adam(p, lr=LR, amsgrad=True, foreach=True),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=LR, fused=True),
    "adamw, tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(LR)),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=LR),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=LR),
    "adamax": lambda p: torch.optim.Adamax(p, lr=LR),
    "nadam": lambda p: torch.optim.NAdam(p, lr=LR),
    "radam": lambda p: torch.optim.RAdam(p, lr=LR),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=LR, momentum=0.5, centered=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, weight_decay=0.1),
    "fused nesterov": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, nesterov=True, fused=True),
    "maximizing sgd": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, maximize=True),
}


class Own(Optimizer):
    """A user's own, whose state begins as nobody else knows."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": LR})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it gives no loss
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.ones_like(p))
                p.sub_(momentum.add_(p.grad), alpha=group["lr"])


GONE: dict[str, Make] = {
    "dampened sgd, whose first step differs": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, dampening=0.1),
    "rprop, whose state begins with the lr": lambda p: torch.optim.Rprop(p, lr=LR),
    "asgd, whose state begins with the lr": lambda p: torch.optim.ASGD(p, lr=LR),
    "a user's own": Own,
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))


def steps(net: nn.Module, optimizer: Optimizer, n: int, lr: float = LR) -> None:
    """Some of the gradients are zero, and some minus zero."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], torch.Tensor) else lr
    for number in range(n):
        x = torch.linspace(-1, 1, 12).reshape(3, 4) * (number - 1)
        torch.autograd.backward(-net(x).square().sum())
        optimizer.step()
        optimizer.zero_grad()


def mark(optimizer: Optimizer) -> dict[tuple[int, str], torch.Tensor]:
    """Marks the state as a compiler does, and gives its tensors."""
    tensors = {
        (i, name): value
        for i, state in enumerate(optimizer.state.values())
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    for tensor in tensors.values():
        torch._dynamo.mark_static_address(tensor)
    return tensors


def bits(net: nn.Module, optimizer: Optimizer) -> list[bytes]:
    tensors = [*net.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    return [torch.as_tensor(each).detach().reshape(-1).view(torch.uint8).numpy().tobytes() for each in tensors]


def probed(make: Make) -> tuple[bool, list[bytes]]:
    """Whether the state stayed in its place, and what a run with two probes at its start leaves."""
    net = network()
    optimizer = make(net.parameters())
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()
    kept = True
    before: dict[tuple[int, str], torch.Tensor] = {}
    for _ in range(2):
        steps(net, optimizer, 3, lr=0.5)
        now = mark(optimizer)
        kept &= all(now[key] is tensor for key, tensor in before.items())
        before = now
        snapshot.restore()
    kept &= bool(before) and len(optimizer.state) > 0
    steps(net, optimizer, 4)
    return kept, bits(net, optimizer)


@pytest.mark.parametrize("name", [*KEPT, *GONE])
def test_steps_after_probes_are_those_without_bit_for_bit(name: str) -> None:
    make = (KEPT | GONE)[name]
    kept, found = probed(make)
    net = network()
    optimizer = make(net.parameters())
    steps(net, optimizer, 4)
    assert found == bits(net, optimizer)
    assert kept == (name in KEPT)


def test_state_that_no_graph_holds_goes() -> None:
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()
    steps(net, optimizer, 2)
    snapshot.restore()
    assert not optimizer.state


def test_what_a_cuda_graph_may_hold_stays_and_the_flag_that_a_compiler_has_set_does() -> None:
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, capturable=next(net.parameters()).is_cuda)
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()
    steps(net, optimizer, 2)
    optimizer.param_groups[0]["capturable"] = True  # a CPU makes no step with it
    addresses = [value.data_ptr() for state in optimizer.state.values() for value in state.values()]
    snapshot.restore()
    values = [value for state in optimizer.state.values() for value in state.values()]
    assert [value.data_ptr() for value in values] == addresses
    assert not any(value.any() for value in values)
    assert optimizer.param_groups[0]["capturable"]


def test_no_gradient_stays_behind() -> None:
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()
    steps(net, optimizer, 1)
    mark(optimizer)
    snapshot.restore()
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("name", "graphs"), [("adamw, tensor lr", 1), ("sgd", 2)])
def test_a_compiled_step_is_compiled_once(name: str, graphs: int) -> None:
    torch._dynamo.reset()
    net = network()
    optimizer = KEPT[name](net.parameters())
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()
    counter = CompileCounter()
    compiled = torch.compile(optimizer.step, backend=counter)
    for _ in range(3):
        for _ in range(2):
            torch.autograd.backward(net(torch.ones(3, 4)).sum())
            compiled()
            optimizer.zero_grad()
        snapshot.restore()
    assert counter.frame_count == graphs
