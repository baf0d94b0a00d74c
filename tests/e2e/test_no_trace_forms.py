"""A probe leaves no trace in tensors and modules that change their form, are replaced, or are of no usual kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.support.training.no_trace import N_FEATURES, Cases, Loop, assert_no_trace, loop

CASES = Cases()


class Net(nn.Module):
    """A small network; `change` is called with it before every training step, and counts its calls."""

    def __init__(self, change: Callable[[Any, int], object] = lambda *_: None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(N_FEATURES, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.last = nn.Linear(8, 1)
        self.change = change
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.change(self, self.calls)
        self.calls += 1
        hidden = self.body(x.to(next(self.body.parameters()).dtype)).to(self.last.weight.dtype)
        shift: Any = getattr(self, "shift", None)
        if shift is not None:
            hidden = hidden + shift.to(hidden.dtype).sum()
        y: torch.Tensor = self.last(hidden).float()
        return y


def at_fourth(change: Callable[[Any], object]) -> Loop:
    """Of a net that changes once, in the first probe and in the first committed steps."""
    net = Net(lambda net, calls: change(net) if calls == 2 else None)
    return loop(net)


@CASES.add
def observers_that_resize_their_buffers() -> Loop:
    def change(net: Any, calls: int) -> None:
        if calls == 1:
            net.body[2].low.resize_(8).copy_(net.body[2].weight.detach().amin(1))
        elif calls > 1:
            net.body[2].low.minimum(net.body[2].weight.detach().amin(1))
        net.shift = net.body[2].low

    net = Net(change)
    net.body[2].register_buffer("low", torch.zeros(()))
    return loop(net)


@CASES.add
def fake_quantisation() -> Loop:
    from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver

    net: Any = Net()
    observer: Any = FakeQuantize
    net.fake = observer(MovingAveragePerChannelMinMaxObserver, quant_min=-8, quant_max=7, dtype=torch.qint8)
    net.body.append(net.fake)
    return loop(net)


@CASES.add
def banks_that_grow() -> Loop:
    def change(net: Any, calls: int) -> None:
        row = net.last.weight.detach()
        net.register_buffer("bank", torch.cat([net.bank, row]))
        net.resized.resize_(len(net.bank), 8)
        net.resized[-1] = row
        net.data.data = torch.cat([net.data.data, row])
        net.set.set_(torch.cat([net.set, row]))
        net.shift = net.bank.mean() + net.resized.mean() + net.data.mean() + net.set.mean() + torch.zeros(1)

    net = Net(change)
    net.register_buffer("bank", torch.zeros(1, 8))
    net.resized, net.data, net.set = torch.zeros(1, 8), torch.zeros(1, 8), torch.zeros(1, 8)
    return loop(net)


@CASES.add
def memory_that_is_let_go() -> Loop:
    def change(net: Any, calls: int) -> None:
        if calls == 2:
            net.cache.untyped_storage().resize_(0)
        elif calls < 2:
            net.shift = net.cache.add_(1).sum()

    net = Net(change)
    net.cache = torch.ones(4)
    return loop(net)


@CASES.add
def other_types_in_a_probe() -> Loop:
    return at_fourth(lambda net: (net.body.double(), net.last.to(torch.bfloat16)))


@CASES.add
def half_precision_after_some_steps() -> Loop:
    def change(net: Any) -> None:
        net.body.bfloat16()

    return at_fourth(change)


@CASES.add
def flips_of_what_is_trained() -> Loop:
    def change(net: Any, calls: int) -> None:
        net.body[0].requires_grad_(calls >= 3)
        net.last.bias.requires_grad_(calls % 2 == 0)

    return loop(Net(change))


@CASES.add
def other_memory_formats() -> Loop:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 2)
            self.head = nn.Linear(3, 1)
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 2:
                self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            y: torch.Tensor = self.head(self.conv(x[:, :, None, None].expand(-1, -1, 2, 2)[:, :2]).flatten(1))
            return y

    return loop(Images())


@CASES.add
def pruning() -> Loop:
    def change(net: Any, calls: int) -> None:
        if calls in (1, 4):
            prune.l1_unstructured(net.body[2], "weight", 0.2)  # type: ignore[no-untyped-call]
        if calls == 5:
            prune.remove(net.body[2], "weight")  # type: ignore[no-untyped-call]

    return loop(Net(change))


@CASES.add
def spectral_norm_before() -> Loop:
    net = Net()
    parametrizations.spectral_norm(net.body[2])
    return loop(net)


@CASES.add
def old_spectral_norm_before() -> Loop:
    net = Net()
    nn.utils.spectral_norm(net.body[2])
    return loop(net)


@CASES.add
def norms_that_are_added() -> Loop:
    def change(net: Any, calls: int) -> None:
        if calls == 1:
            parametrizations.weight_norm(net.body[2])
            parametrizations.spectral_norm(net.body[0])
            parametrizations.orthogonal(net.last)
        if calls == 4:
            parametrize.remove_parametrizations(net.body[2], "weight")

    return loop(Net(change))


@CASES.add
def norms_that_are_removed() -> Loop:
    def change(net: Any, calls: int) -> None:
        if calls == 2:
            parametrize.remove_parametrizations(net.body[2], "weight")
            parametrize.remove_parametrizations(net.body[0], "weight", leave_parametrized=False)

    net = Net(change)
    parametrizations.weight_norm(net.body[2])
    parametrizations.orthogonal(net.body[0])
    return loop(net)


@CASES.add
def hooks_that_come_and_go() -> Loop:
    class Hooks:
        def __init__(self) -> None:
            self.calls = 0

        def forward(self, _: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return output * (1 + 0.01 * self.calls)

    hooks = Hooks()

    def change(net: Any, calls: int) -> None:
        if calls in (1, 4):
            net.handles.append(net.body[0].register_forward_hook(hooks.forward))
            net.handles.append(net.body[0].register_full_backward_hook(lambda *_: None))
            net.handles.append(net.last.weight.register_hook(lambda gradient: gradient * 0.5))
            net.handles.append(net.last.bias.register_post_accumulate_grad_hook(hooked))
            net.handles.append(net.body[2].register_forward_pre_hook(lambda *_, **__: None, with_kwargs=True))
            net.handles.append(net.body[2].weight.register_hook(lambda gradient: gradient * 2))
        if calls == 3:
            while net.handles:
                net.handles.pop().remove()

    def hooked(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)

    net: Any = Net(change)
    net.handles, net.hooks = [], hooks
    net.body[2].weight.register_hook(lambda gradient: gradient + 0.001)
    return loop(net)


@CASES.add
def modules_that_are_replaced() -> Loop:
    def change(net: Any, calls: int) -> None:
        if calls == 2:
            net.body[2] = nn.Linear(8, 8)
            net.body.append(nn.BatchNorm1d(8))
            net.body.insert(1, nn.LayerNorm(8))
            net.scales.append(nn.Parameter(torch.ones(())))
            net.by_name["b"] = nn.Linear(1, 1)
            net.named["c"] = nn.Parameter(torch.zeros(1))
            del net.body[3]
            net.last = nn.Sequential(net.last)
            net.last.weight = net.last[0].weight
        if calls == 4:
            del net.by_name["a"]

    net: Any = Net(change)
    net.scales, net.by_name = nn.ParameterList([torch.ones(())]), nn.ModuleDict({"a": nn.Linear(1, 1)})
    net.named = nn.ParameterDict({"a": torch.zeros(1)})
    return loop(net)


@CASES.add
def weights_that_are_tied_and_untied() -> Loop:
    def change(net: Any, calls: int) -> None:
        if calls == 2:
            net.body[2].bias = net.body[0].bias
        if calls == 4:
            net.body[2].weight.data = net.body[2].weight.data.clone()

    net: Any = Net(change)
    net.other = nn.Linear(8, 8)
    net.other.weight.data = net.body[2].weight.data
    return loop(net)


@CASES.add
def buffers_that_get_a_history() -> Loop:
    def change(net: Any, calls: int) -> None:
        net.shift = net.shift.detach()
        net.shift.add_(net.last.weight.mean())

    net: Any = Net(change)
    net.register_buffer("shift", torch.zeros(2))
    return loop(net)


@CASES.add
def leaves_that_get_a_history_in_place() -> Loop:
    def change(net: Any, calls: int) -> None:
        net.shift.detach_()
        net.shift.add_(net.last.weight.mean())

    net: Any = Net(change)
    net.register_buffer("shift", torch.zeros(2))
    return loop(net)


@CASES.add
def sparse_and_quantised_buffers() -> Loop:
    def change(net: Any, calls: int) -> None:
        net.coo = (net.coo * 0.9).coalesce()
        net.csr.values().mul_(0.9)
        net.uncoalesced.mul_(0.5)
        net.quantised = torch.quantize_per_tensor(net.last.weight.detach(), 0.1, 0, torch.qint8)
        total = (
            net.coo.sum() + net.csr.values().sum() + net.uncoalesced.to_dense().sum() + net.quantised.dequantize().sum()
        )
        net.shift = total + torch.zeros(1)

    net: Any = Net(change)
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    net.register_buffer("coo", dense.to_sparse())
    net.register_buffer("csr", dense.to_sparse_csr())
    net.uncoalesced = torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.ones(2), (2, 2), is_coalesced=False)
    net.quantised = torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)
    return loop(net)


@CASES.add
def complex_and_integer_tensors() -> Loop:
    def change(net: Any, calls: int) -> None:
        net.wave.mul_(1j)
        net.count += 1
        net.mask.logical_not_()
        net.conjugate = net.wave.conj()
        net.negative = net.conjugate.imag
        net.shift = net.wave.real + net.count + net.mask + net.negative

    net: Any = Net(change)
    net.wave = torch.ones(2, dtype=torch.complex64)
    net.count, net.mask = torch.zeros((), dtype=torch.int64), torch.tensor([True, False])
    return loop(net)


@CASES.add
def tensors_made_in_inference_mode() -> Loop:
    def change(net: Any, calls: int) -> None:
        with torch.inference_mode():
            net.mean = net.last.weight.mean() + torch.zeros(2)
            net.kept.add_(1)
        net.shift = (net.mean + net.kept).clone()

    net: Any = Net(change)
    with torch.inference_mode():
        net.kept = torch.zeros(2)
    return loop(net)


@CASES.add
def exotic_tensors() -> Loop:
    def change(net: Any, calls: int) -> None:
        net.nested = torch.nested.nested_tensor([net.last.bias.detach(), net.last.weight.detach()[0]])
        net.shift = net.nested.values()[:1] if net.nested.layout is torch.jagged else torch.zeros(1)

    net: Any = Net(change)
    net.nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)
    net.meta = torch.zeros(3, device="meta")
    return loop(net)


@CASES.add
def script_modules() -> Loop:
    net: Any = Net()
    net.body = torch.jit.trace(net.body, torch.zeros(1, N_FEATURES))  # type: ignore[no-untyped-call]
    return loop(net)


@CASES.add
def graph_modules() -> Loop:
    net: Any = Net()
    net.body = torch.fx.symbolic_trace(nn.Sequential(*net.body, nn.BatchNorm1d(8)))
    return loop(net)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning", "ignore:Sparse inv:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning", "ignore:.*jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:torch.quantize:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_probe_leaves_no_trace(name: str) -> None:
    assert_no_trace(CASES[name])
