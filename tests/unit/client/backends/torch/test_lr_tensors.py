from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lrpilot.backends.torch.lr_tensors import LrTensors, fill, fill_together


def filled(lrs: LrTensors, tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> list[float]:
    lrs.fill({id(tensor): (tensor, number) for tensor, number in zip(tensors, numbers, strict=True)})
    return [tensor.item() for tensor in tensors]


@given(
    st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=4),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_bits_are_those_of_a_fill(numbers: list[float], dtype: torch.dtype) -> None:
    tensors = [torch.zeros(shape, dtype=dtype) for shape in ((), (1,), (1, 1), ())[: len(numbers)]]
    filled(LrTensors(), tensors, numbers)
    expected = [torch.zeros_like(tensor).fill_(n) for tensor, n in zip(tensors, numbers, strict=True)]
    for tensor, each in zip(tensors, expected, strict=True):
        assert tensor.equal(each)


def test_tensors_that_move_are_followed() -> None:
    """A rollback or a user may give a tensor other memory, and other tensors may come in its place."""
    lrs, lr = LrTensors(), torch.tensor(1.0)
    assert filled(lrs, [lr], [0.5]) == [0.5]
    former, lr.data = lr.data, torch.tensor(2.0)
    assert filled(lrs, [lr], [0.25]) == [0.25]
    assert former.item() == 0.5
    lr.data = torch.tensor(2.0, dtype=torch.float64)
    assert filled(lrs, [lr], [0.1]) == [0.1]


def test_one_in_a_larger_tensor_leaves_its_neighbours() -> None:
    memory = torch.ones(3)
    assert filled(LrTensors(), [memory[1]], [0.5]) == [0.5]
    assert memory.tolist() == [1.0, 0.5, 1.0]


def test_autograd_is_told() -> None:
    """A backward pass that needs the former value is refused, as with any other change in place."""
    lr, weight = torch.tensor(1.0), torch.ones((), requires_grad=True)
    product = weight * lr
    filled(LrTensors(), [lr], [0.5])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(product)


@pytest.mark.parametrize("make", [lambda: torch.tensor(1.0, requires_grad=True), lambda: torch.ones(1)[0].neg()])
def test_others_are_filled_as_pytorch_does(make: object) -> None:
    assert callable(make)
    assert filled(LrTensors(), [make()], [0.5]) == [0.5]


def test_one_of_inference_mode_is_filled_there() -> None:
    with torch.inference_mode():
        assert filled(LrTensors(), [torch.tensor(1.0)], [0.5]) == [0.5]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tensors_that_are_filled_together_have_the_bits_of_those_filled_alone(dtype: torch.dtype) -> None:
    numbers = [0.0, 1e-12, 0.1, *(1.2345678912 * 10 ** (-i / 7) for i in range(60))]
    together = [torch.tensor(math.nan, dtype=dtype) for _ in numbers]
    fill_together(together, numbers)
    assert [each.item() for each in together] == [torch.empty((), dtype=dtype).fill_(n).item() for n in numbers]


def test_tensors_of_several_types_are_filled_at_once() -> None:
    tensors = [torch.ones((), dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    fill(tensors, [0.5, 0.25, 2.0])
    assert [tensor.item() for tensor in tensors] == [0.5, 0.25, 2.0]
