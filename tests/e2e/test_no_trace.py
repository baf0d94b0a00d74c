"""A probe leaves no trace, wherever a loop keeps its state: compared bit for bit with a loop without a tuner."""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.training.no_trace import N_FEATURES, Cases, Loop, Net, assert_no_trace, loop

CASES = Cases()


@CASES.add
def data_dependent_initialisation() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        if not net.initialised:
            with torch.no_grad():
                net.scale.copy_(1 / (h.std(0) + 0.1))
            net.initialised = True
        return h * net.scale

    return loop(Net(hook, initialised=False, scale=nn.Parameter(torch.ones(8))))


@CASES.add
def annealed_constants() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.temperature = max(0.1, net.temperature * 0.9)
        net.calls += 1
        net.beta.mul_(0.95)
        net.gamma = net.gamma * 0.5
        return h / net.temperature + net.beta + net.gamma + 0.01 * net.calls

    return loop(Net(hook, temperature=2.0, calls=0, beta=torch.tensor(1.0), gamma=torch.tensor(1.0)))


@CASES.add
def a_hidden_state_over_batches() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.hidden = (h + 0.5 * net.hidden if net.hidden is not None else h).detach()
        return h + 0.1 * net.hidden

    return loop(Net(hook, hidden=None))


@CASES.add
def a_hidden_state_with_its_history() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        if net.hidden is not None:
            net.hidden = net.hidden.detach()
            h = h + 0.3 * net.hidden
        net.hidden = h
        return h

    return loop(Net(hook, hidden=None))


@CASES.add
def a_recurrent_state_by_layer() -> Loop:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(N_FEATURES, 5, num_layers=2)
            self.head = nn.Linear(5, 1)
            self.states: dict[str, list[torch.Tensor]] = {}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states = [tuple(s.detach() for s in self.states["last"])] if self.states else []
            y, new = self.cells(x[:, None], *states)
            self.states["last"] = list(new)
            out: torch.Tensor = self.head(y[:, 0])
            return out

    return loop(Recurrent())


@CASES.add
def a_momentum_queue_with_a_pointer() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        n = len(net.queue)
        rows = torch.arange(net.pointer, net.pointer + len(h)) % n
        net.queue[rows] = h.detach()
        net.pointer = (net.pointer + len(h)) % n
        return h + net.queue.mean(0)

    return loop(Net(hook, queue=torch.zeros(16, 8), pointer=0))


@CASES.add
def a_deque_of_tensors() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.memory.append(h.detach())
        return h + torch.stack(list(net.memory)).mean(0)

    return loop(Net(hook, memory=collections.deque(maxlen=3)))


@CASES.add
def a_list_that_grows() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.seen.append(h.detach().mean())
        return h + sum(net.seen)

    return loop(Net(hook, seen=[]))


@CASES.add
def numpy_arrays() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.counts[h.argmax(1).numpy()] += 1
        net.grown = np.append(net.grown, h.sum().item())
        net.view[0] = h[0, 0].item()
        net.objects[0].append(1)
        net.masked[1] = h[0, 1].item()
        net.masked[2] = np.ma.masked
        net.fortran[...] += 1
        net.bank.resize((len(net.bank) + 1, 2), refcheck=False)
        net.bank[-1] = h[0, 0].item()
        total = net.counts.mean() + net.grown.mean() + net.base.sum() + len(net.objects[0]) + net.masked.sum()
        return h * (1 + 0.01 * float(total + net.fortran.sum() + net.bank.sum()))

    base = np.zeros(4)
    objects = np.empty(1, dtype=object)
    objects[0] = []
    return loop(
        Net(
            hook,
            counts=np.zeros(8, dtype=np.int64),
            grown=np.zeros(1),
            base=base,
            view=base[1:],
            objects=objects,
            masked=np.ma.masked_array(np.arange(4.0), mask=[True, False, False, False]),
            fortran=np.asfortranarray(np.zeros((2, 3))),
            bank=np.zeros((1, 2)),
            fixed=np.broadcast_to(np.ones(1), (3,)),
            shared=torch.from_numpy(base),
        )
    )


@CASES.add
def python_containers() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.classes.add(int(h.argmax()))
        net.histogram[int(h.argmax(1)[0])].append(1)
        net.counter.update([int(h.argmin())])
        net.recent.move_to_end(net.recent.__iter__().__next__())
        net.table.data["n"] = net.table.data.get("n", 0) + 1
        net.maps.maps[0]["x"] = net.maps.get("x", 0) + 1
        net.bytes[0] += 1
        net.bytes += b"x"
        net.numbers.append(1.5)
        net.nested[0]["a"][1].append(h[0].detach())
        weight = next(iter(net.recent.values())) + len(net.classes) + len(net.histogram) + net.counter.total()
        weight += net.table["n"] + net.maps["x"] + net.bytes[0] + len(net.bytes) + sum(net.numbers)
        return h * (1 + 0.01 * weight) + torch.stack(net.nested[0]["a"][1]).mean(0)

    return loop(
        Net(
            hook,
            classes=set(),
            histogram=collections.defaultdict(list),
            counter=collections.Counter(),
            recent=collections.OrderedDict(a=1.0, b=2.0, c=3.0),
            table=collections.UserDict(),
            maps=collections.ChainMap({}, {"x": 3}),
            bytes=bytearray(b"\0"),
            numbers=array.array("d"),
            nested=({"a": (0, [])},),
        )
    )


class Shadows:
    """An average of weights, as users write it."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        self.shadows = [p.detach().clone() for p in parameters]
        self.updates = 0
        self.collected: list[torch.Tensor] = []

    def update(self, parameters: Iterator[nn.Parameter]) -> None:
        self.updates += 1
        decay = min(0.9, (1 + self.updates) / (10 + self.updates))
        for shadow, parameter in zip(self.shadows, parameters, strict=True):
            shadow.lerp_(parameter.detach(), 1 - decay)
        self.collected = [shadow * 2 for shadow in self.shadows]


@CASES.add
def an_average_that_two_modules_share() -> Loop:
    net: Any = nn.Sequential(Net(), Net())
    first, second = net
    first.last = nn.Linear(8, N_FEATURES)
    first.average = second.average = Shadows(net.parameters())

    def update(batch: torch.Tensor) -> Any:
        loss = plain.update(batch) + sum(s.sum() for s in second.average.shadows)
        first.average.update(net.parameters())
        return loss

    plain = loop(net)
    return dataclasses.replace(plain, update=update)


@CASES.add
def tensors_that_share_memory() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.whole.add_(h.detach().mean())
        net.row.mul_(0.9)
        net.again = net.whole.view(-1)
        return h + net.whole[1] + net.row

    whole = torch.zeros(2, 8)
    net: Any = Net(hook, whole=whole, row=whole[0], again=whole.view(-1))
    net.register_buffer("buffer", whole[1])
    net.twin = nn.Linear(N_FEATURES, 8)
    net.twin.weight.data = net.first.weight.data
    return loop(net)


@CASES.add
def modules_in_plain_lists() -> Loop:
    hidden = [nn.Linear(8, 8), nn.BatchNorm1d(8)]

    def hook(net: Any, h: torch.Tensor) -> Any:
        for module in net.hidden:
            h = module(h)
        return h

    net = Net(hook, hidden=hidden)
    return loop(net, torch.optim.Adam([*net.parameters(), *hidden[0].parameters(), *hidden[1].parameters()], lr=0.01))


@CASES.add
def layers_made_in_the_first_forward_pass() -> Loop:
    net: Any = Net()
    net.middle = None
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)

    def hook(net: Any, h: torch.Tensor) -> Any:
        if net.middle is None:
            net.middle = nn.Linear(8, 8)
            net.extra = nn.Parameter(torch.ones(8))
            net.register_buffer("mean", h.detach().mean(0))
        return net.middle(h) * net.extra + net.mean

    net.hook = hook
    return loop(net, optimizer)


@CASES.add
def lazy_layers() -> Loop:
    net = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(1))
    return loop(net, torch.optim.Adam(net.parameters(), lr=0.01))


class Mode(enum.Enum):
    """Of a module."""

    WARM = 1
    COLD = 2


@CASES.add
def modes_and_flags() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.mode = Mode.COLD if net.mode is Mode.WARM else Mode.WARM
        net.first.calls = getattr(net.first, "calls", 0) + 1
        net.dropout.p = min(0.5, net.dropout.p + 0.05)
        net.norm.momentum = 0.9 * (net.norm.momentum or 0)
        return net.norm(net.dropout(h)) * net.mode.value + 0.01 * net.first.calls

    return loop(Net(hook, mode=Mode.WARM, dropout=nn.Dropout(0.1), norm=nn.BatchNorm1d(8)))


@pytest.mark.parametrize("name", CASES)
def test_a_probe_leaves_no_trace(name: str) -> None:
    assert_no_trace(CASES[name])
