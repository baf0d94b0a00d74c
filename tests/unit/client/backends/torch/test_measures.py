"""What is measured of gradients and updates, whatever the optimizer, beside the norm that has a file of its own."""

from __future__ import annotations

import logging
import math
from typing import Any
from unittest import mock

import pytest
import torch
from lrpilot.backends.measures import (
    GRADIENT_L1_NORM,
    GRADIENT_NORM,
    GRADIENT_OVER_EPS,
    UPDATE_NORM,
    UPDATE_PRODUCT,
    UPDATE_RATIO,
)
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.backends.torch.measures.collector import MeasureCollector
from torch import nn
from torch.nn.utils import parameters_to_vector

ALL = (GRADIENT_NORM, GRADIENT_L1_NORM, GRADIENT_OVER_EPS, UPDATE_RATIO, UPDATE_NORM, UPDATE_PRODUCT)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)


def backend(model: nn.Module, *optimizers: torch.optim.Optimizer, names: tuple[str, ...] = ALL, **register: Any) -> Any:
    made = TorchBackend(model, optimizers, None, register)
    made.begin(30)
    made.measure(30, dict.fromkeys(names, ()))
    return made


def compute(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    model.zero_grad()
    torch.autograd.backward(model(torch.randn(4, 5, dtype=dtype)).square().mean())


def gradient_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]).double()


def weights_of(model: nn.Module) -> torch.Tensor:
    return parameters_to_vector(model.parameters()).detach().double()


def fused(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr, fused=True)


def tensor_lr(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, torch.tensor(lr), momentum=0.9)


def two_groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
    first, *others = parameters
    return torch.optim.Adam([{"params": [first]}, {"params": others, "lr": 3 * lr}], lr)


KINDS = (torch.optim.SGD, torch.optim.AdamW, fused, tensor_lr, two_groups, torch.optim.Rprop)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_closure", [False, True])
def test_updates_are_measured_by_what_they_did_to_the_weights(kind: Any, by_closure: bool) -> None:
    """The LR changes at every step: the direction is per unit of the first group's LR at its own step."""
    model = network()
    optimizer = kind(model.parameters(), 0.01)
    own = backend(model, optimizer)
    direction = None
    expected: dict[str, list[float]] = {name: [] for name in (UPDATE_PRODUCT, UPDATE_NORM, UPDATE_RATIO)}
    for step in range(5):
        lr = 0.01 * (1 + step)
        own.set_lr(lr)
        compute(model)
        gradient, before = gradient_of(model), weights_of(model)
        expected[UPDATE_PRODUCT].append(math.nan if direction is None else (gradient @ direction).item())
        expected[UPDATE_NORM].append(math.nan if direction is None else direction.norm().item())
        old = [each.detach().clone() for each in model.parameters()]
        optimizer.step(lambda: torch.tensor(1.0)) if by_closure else optimizer.step()
        direction = (before - weights_of(model)) / lr
        ratios = [
            ((a - b).norm() / b.norm()).item() for a, b in zip(old, model.parameters(), strict=True) if b.dim() > 1
        ]
        expected[UPDATE_RATIO].append(max(ratios))
        own.append(1.0)
    found = own.flush_measures(5)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-3, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_gradients_are_measured_by_their_l1_norm_and_in_units_of_eps(kind: Any) -> None:
    model = network()
    optimizer = kind(model.parameters(), 0.01)
    own = backend(model, optimizer, names=(GRADIENT_L1_NORM, GRADIENT_OVER_EPS))
    compute(model)
    optimizer.step()
    own.append(1.0)
    found = own.flush_measures(1)
    assert found[GRADIENT_L1_NORM] == pytest.approx([gradient_of(model).abs().sum().item()], rel=1e-6)
    sizes = sorted(each.grad.square().mean().sqrt().item() for each in model.parameters() if each.grad is not None)
    median = sizes[1] / 1e-8 if kind is torch.optim.Adam else math.inf  # the lower of the two in the middle
    assert found[GRADIENT_OVER_EPS] == pytest.approx([median], rel=1e-5)
    assert (GRADIENT_OVER_EPS in own.measures) == (kind is torch.optim.Adam)
    assert set(own.measures) | {GRADIENT_OVER_EPS} == set(ALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_products_are_taken_in_single_precision_at_least(dtype: torch.dtype) -> None:
    """In half precision 300 * 300 would be infinite, and the sum of 4,096 squares of 0.01 far off."""
    weights = nn.Parameter(torch.zeros(4096, dtype=dtype))
    optimizer = torch.optim.SGD([weights], 0.5)
    own = backend(nn.ParameterList([weights]), optimizer)
    for value in (300.0, 300.0, 0.01):
        weights.grad = torch.full_like(weights, value)
        optimizer.step()
        own.append(1.0)
    found = own.flush_measures(3)
    assert found[UPDATE_PRODUCT][1:] == pytest.approx([300.0**2 * 4096, 300.0 * 0.01 * 4096], rel=1e-2)
    assert found[UPDATE_NORM][1:] == pytest.approx([300.0 * 64] * 2, rel=1e-2)
    assert found[GRADIENT_L1_NORM] == pytest.approx([300.0 * 4096] * 2 + [0.01 * 4096], rel=1e-2)


def test_parameters_without_gradients_and_sparse_ones_have_their_part_in_the_product() -> None:
    model = nn.ModuleList([nn.Embedding(9, 3, sparse=True), nn.Linear(3, 3), nn.Linear(3, 2)])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    own = backend(model, optimizer)
    before = None
    for rows in ([1, 1, 2], [2, 3]):
        model.zero_grad()
        torch.autograd.backward(model[1](model[0](torch.tensor(rows))).square().sum())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in model.parameters()]
        flat = torch.cat([each.flatten() for each in grads])
        product = math.nan if before is None else (flat @ before).item()
        before = flat.clone()
        optimizer.step()
        own.append(1.0)
    found = own.flush_measures(2)
    assert found[UPDATE_PRODUCT] == pytest.approx([math.nan, product], rel=1e-4, nan_ok=True)
    assert product != 0


@pytest.mark.parametrize("is_fused", [False, True])
def test_an_update_that_a_scaler_leaves_out_leaves_the_direction_before(is_fused: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=is_fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    own = backend(model, optimizer, scaler=scaler)
    gradients, counted = [], []
    for step in range(4):
        model.zero_grad()
        torch.autograd.backward(scaler.scale(model(torch.randn(4, 5)).square().mean()))
        gradients.append(gradient_of(model) / scaler.get_scale())
        if step == 2:
            spoilt = next(model.parameters()).grad
            assert spoilt is not None
            spoilt[0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        counted.append(own.append(1.0))
    assert counted == [True, True, False, True]
    products = [math.nan, (gradients[1] @ gradients[0]).item(), (gradients[3] @ gradients[1]).item()]
    assert own.flush_measures(3)[UPDATE_PRODUCT] == pytest.approx(products, rel=1e-3, nan_ok=True)


def test_the_products_of_several_optimizers_add_up() -> None:
    model = network()
    first = torch.optim.SGD(model[0].parameters(), 0.01)
    second = torch.optim.SGD(model[2].parameters(), 0.02)
    own = backend(model, first, second)
    before: list[torch.Tensor] = []
    for _ in range(2):
        compute(model)
        now = [gradient_of(model[i]) for i in (0, 2)]
        product = (now[0] @ before[0] + 2 * now[1] @ before[1]).item() if before else math.nan
        before = now
        first.step()
        second.step()
        own.append(1.0)
    assert own.flush_measures(2)[UPDATE_PRODUCT] == pytest.approx([math.nan, product], rel=1e-3, nan_ok=True)


class Sharpness(torch.optim.Optimizer):
    """Steps an optimizer that it wraps after a step of its own, as SAM does."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {"lr": 0.01})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nothing to give
        self.inner.step()


def test_of_an_optimizer_inside_another_one_there_is_one_copy_and_its_updates_count() -> None:
    model = network()
    outer = Sharpness(torch.optim.SGD(model.parameters(), 0.01))
    own = backend(model, outer)
    assert list(own._collector._directions) == [id(outer.inner)]
    gradients = []
    for _ in range(2):
        compute(model)
        gradients.append(gradient_of(model))
        outer.step()
        own.append(1.0)
    product = (gradients[0] @ gradients[1]).item()
    assert own.flush_measures(2)[UPDATE_PRODUCT] == pytest.approx([math.nan, product], rel=1e-3, nan_ok=True)


def test_the_direction_outlives_a_directive_and_is_gone_after_a_rollback_and_where_nobody_asks() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer, names=(UPDATE_PRODUCT,))

    def measured() -> list[float]:
        for _ in range(2):
            compute(model)
            optimizer.step()
            own.append(1.0)
        values: list[float] = own.flush_measures(2)[UPDATE_PRODUCT]
        return values

    own.take()
    assert [math.isnan(value) for value in measured()] == [True, False]
    own.measure(2, {UPDATE_PRODUCT: ()})
    assert [math.isnan(value) for value in measured()] == [False, False]
    own.restore()
    own.measure(2, {UPDATE_PRODUCT: ()})
    assert [math.isnan(value) for value in measured()] == [True, False]
    own.measure(2, {GRADIENT_NORM: ()})
    assert not own._collector._directions
    assert not optimizer._optimizer_step_post_hooks.keys() - own._updates._handles[0].hooks_dict_ref().keys()
    own.measure(2, {UPDATE_PRODUCT: ()})
    assert [math.isnan(value) for value in measured()] == [True, False]
    own.finish()
    assert not own._collector._directions


def test_measuring_changes_no_bit_of_the_training_and_allocates_its_copy_once() -> None:
    def trained(names: tuple[str, ...]) -> torch.Tensor:
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        own = backend(model, optimizer, names=names)
        places = set()
        for _ in range(4):
            compute(model)
            optimizer.step()
            own.append(1.0)
            places |= {part.memory.data_ptr() for each in own._collector._directions.values() for part in each.parts}
        assert len(places) == (UPDATE_PRODUCT in names)
        return weights_of(model)

    assert torch.equal(trained(()), trained(ALL))


def test_a_measure_that_fails_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer)
    with (
        caplog.at_level(logging.WARNING, "lrpilot"),
        mock.patch("torch._foreach_mul_", side_effect=RuntimeError("odd")),
    ):
        for _ in range(3):
            compute(model)
            optimizer.step()
            own.append(1.0)
    found = own.flush_measures(3)
    assert all(map(math.isnan, found[UPDATE_PRODUCT]))
    assert not any(map(math.isnan, found[GRADIENT_NORM] + found[UPDATE_RATIO] + found[UPDATE_NORM][1:]))
    assert [record.getMessage() for record in caplog.records] == [
        "lrpilot: update_product can't be measured: RuntimeError: odd"
    ]


def test_weights_that_appear_later_have_a_direction_from_then_on() -> None:
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), 0.01)
    collector = MeasureCollector([optimizer])
    collector.begin(4, {UPDATE_NORM: ()})
    for step in range(4):
        compute(model)
        if step == 2:
            optimizer.add_param_group({"params": list(model[2].parameters())})
        optimizer.step()
        collector.append()
    first, second, third, fourth = collector.flush(4)[UPDATE_NORM]
    assert math.isnan(first)
    assert 0 < second < fourth
    assert 0 < third < fourth
