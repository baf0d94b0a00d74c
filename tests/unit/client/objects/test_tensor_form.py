"""Whatever becomes of a tensor, it is put back to the memory that it had, and shares it with whom it shared it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.objects.tensor_form import TensorForm, has_values
from torch import nn


def to_other_data(t: torch.Tensor) -> None:
    t.data = torch.full((7,), 9.0)


def to_other_type(t: torch.Tensor) -> None:
    t.data = t.data.to(torch.float64)


def to_half(t: torch.Tensor) -> None:
    t.data = t.data.half()


def larger(t: torch.Tensor) -> None:
    t.data.resize_(5, 5)


def smaller(t: torch.Tensor) -> None:
    t.data.resize_(1)


def let_go(t: torch.Tensor) -> None:
    t.untyped_storage().resize_(0)


def set_to_another(t: Any) -> None:
    t.data.set_(torch.ones(3))


def transposed(t: torch.Tensor) -> None:
    t.data.t_()


def shifted(t: torch.Tensor) -> None:
    t.data = t.data[1:]


def swapped(t: torch.Tensor) -> None:
    other = nn.Parameter(torch.ones(3)) if isinstance(t, nn.Parameter) else torch.ones(3)
    torch.utils.swap_tensors(  # type: ignore[no-untyped-call]  # PyTorch's
        t, other.requires_grad_(t.requires_grad)
    )


def of_another_class(t: torch.Tensor) -> None:
    t.__class__ = nn.Buffer if type(t) is nn.Parameter else nn.Parameter


def flipped(t: torch.Tensor) -> None:
    t.requires_grad_(not t.requires_grad)


def with_history(t: torch.Tensor) -> None:
    t.requires_grad_(False).add_(torch.ones(2, 3, requires_grad=True))


CHANGES = [
    to_other_data, to_other_type, to_half, larger, smaller, let_go, set_to_another, transposed, shifted, swapped,
    of_another_class, flipped, with_history,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("graded", [True, False])
def test_form_values_and_sharing_come_back(change: Callable[[Any], None], trained: bool, graded: bool) -> None:
    net: Any = nn.Module()
    values = torch.arange(6.0).reshape(2, 3)
    net.weight = nn.Parameter(values.clone(), requires_grad=trained)
    net.row = net.weight.data[1]
    net.plain = net.weight.data
    if graded:
        net.weight.grad = torch.ones(2, 3)
    weight, address = net.weight, net.weight.data_ptr()
    snapshot = Snapshot(net, [], {})
    snapshot.take()
    for _ in range(2):
        if change is swapped:
            net.weight.grad = None  # PyTorch refuses to swap otherwise
        change(net.weight)
        snapshot.restore()
        assert net.weight is weight
        assert type(weight) is nn.Parameter
        assert (weight.requires_grad, weight.is_leaf) == (trained, True)
        assert torch.equal(weight, values)
        assert torch.equal(net.row, values[1])
        assert net.row.data_ptr() == weight.data_ptr() + 12
        assert change is let_go or weight.data_ptr() == address or change is larger
        assert (weight.grad is not None) == graded
        if graded:
            assert weight.grad is not None
            assert torch.equal(weight.grad, torch.ones(2, 3))
        with torch.no_grad():
            weight[1, 0] = 3.0  # what shares memory shares it


def test_a_tensor_without_memory_is_not_read() -> None:
    net: Any = nn.Linear(1000, 1000)
    storage = net.weight.untyped_storage()
    nbytes = storage.nbytes()
    storage.resize_(0)
    net.lazy, net.meta, net.empty = nn.LazyLinear(1), torch.ones(1, device="meta"), torch.ones(0)
    assert not any(has_values(t) for t in (net.weight, net.lazy.weight, net.meta))
    assert has_values(net.empty)
    snapshot = Snapshot(net, [], {})
    snapshot.take()
    storage.resize_(nbytes)
    net.lazy(torch.ones(1, 3))
    snapshot.restore()
    assert storage.nbytes() == 0
    assert isinstance(net.lazy.weight, nn.UninitializedParameter)


def test_what_is_trained_may_be_left() -> None:
    tensor = torch.ones(2)
    form = TensorForm(tensor)
    tensor.requires_grad_(True)
    form.restore(unfreeze=False)
    assert tensor.requires_grad
    form.restore()
    assert not tensor.requires_grad


class Pair(torch.Tensor):
    """A tensor made of two others, as quantised weights are."""

    first: torch.Tensor
    second: torch.Tensor

    @staticmethod
    def __new__(cls, first: torch.Tensor, second: torch.Tensor) -> Pair:
        made: Pair = torch.Tensor._make_wrapper_subclass(cls, first.shape, dtype=first.dtype)
        return made

    def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
        self.first, self.second = first, second

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["first", "second"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> Pair:
        return Pair(inner["first"], inner["second"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func in (torch.ops.aten.detach.default, torch.ops.aten.add_.Tensor):
            pair = args[0]
            parts = [func(part, *args[1:], **(kwargs or {})) for part in (pair.first, pair.second)]
            return Pair(*parts) if func is torch.ops.aten.detach.default else pair
        raise NotImplementedError(func)


class Picky(torch.Tensor):
    """A tensor that has its own way with every function."""

    @classmethod
    def __torch_function__(cls, func: Any, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{func} is not for this")


def test_tensors_of_other_classes_come_back() -> None:
    net: Any = nn.Module()
    inner = torch.ones(3)
    net.pair = Pair(inner, torch.zeros(3))
    net.parameter = nn.Parameter(Pair(torch.ones(3), torch.zeros(3)))
    with torch._C.DisableTorchFunctionSubclass():
        net.picky = torch.ones(3).as_subclass(Picky)
        data = net.picky.as_subclass(torch.Tensor)
    snapshot = Snapshot(net, [], {})
    snapshot.take()
    with torch.no_grad():
        net.pair.add_(1)
        net.parameter.add_(1)
    data.add_(1)
    snapshot.restore()
    assert torch.equal(inner, torch.ones(3))
    assert torch.equal(net.pair.second, torch.zeros(3))
    assert torch.equal(net.parameter.first, torch.ones(3))
    assert torch.equal(data, torch.ones(3))


@pytest.mark.parametrize("name", ["whole", "row"])
def test_views_that_get_a_history_in_place_are_leaves_again(name: str) -> None:
    net: Any = nn.Linear(2, 2)
    net.register_buffer("whole", torch.zeros(2, 3))
    net.row = row = net.whole[0]
    row.tag = [1]
    snapshot = Snapshot(net, [], {})
    snapshot.take()
    for _ in range(2):
        getattr(net, name).add_(net.weight.mean())
        row.tag.append(2)
        snapshot.restore()
        assert net.row is row
        assert row.tag == [1]
        assert net.whole.is_leaf
        assert row.is_leaf
        assert not net.whole.any()
        row[0] = 1.0
        assert net.whole[0, 0] == 1.0
        row[0] = 0.0
