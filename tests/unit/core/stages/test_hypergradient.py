"""The LRs of hypergradient descent are those that its formulas give, and bounded ones where they would explode."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner_server.core.stages.hypergradient import (
    FURTHEST,
    MEMORY,
    STRIDE,
    Adapted,
    Form,
    Rule,
    additive,
    cosine,
    multiplicative,
)

VECTORS = json.loads((Path(__file__).parents[3] / "data" / "methods" / "hypergradient.json").read_text("utf-8"))
Vector = Any
CURVATURE = np.array(VECTORS["c"])


def gradient_itself() -> Any:
    direction = yield
    while True:
        direction = yield direction


def nesterov(mu: float = 0.9) -> Any:
    gradient, momentum = (yield), 0.0
    while True:
        momentum = mu * momentum + gradient
        gradient = yield gradient + mu * momentum


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Any:
    gradient, m, v, t = (yield), 0.0, 0.0, 0
    while True:
        t += 1
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        gradient = yield math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)


def descended(
    directions: Any, lr: float, move: Callable[[float, Vector, Vector], float], n_steps: int, x: Vector, c: Vector
) -> tuple[list[float], list[Vector]]:
    """LRs and weights of a plain loop in which the LR moves before it is used, as in the paper."""
    next(directions)
    lrs, path, before = [], [], None
    for _ in range(n_steps):
        gradient = c * x
        if before is not None:
            lr = move(lr, gradient, before)
        before = directions.send(gradient)
        x = x - lr * before
        lrs.append(lr)
        path.append(x)
    return lrs, path


def by_product(beta: float) -> Any:
    return lambda lr, gradient, before: additive(lr, beta, float(gradient @ before))


def by_cosine(rate: float) -> Any:
    def move(lr: float, gradient: Vector, before: Vector) -> float:
        norms = float(np.linalg.norm(gradient)), float(np.linalg.norm(before))
        return multiplicative(lr, rate, cosine(float(gradient @ before), *norms))

    return move


@pytest.mark.parametrize(
    ("name", "directions", "move"),
    [
        ("sgd_hd_(lr0=0.1,beta=0.01)", gradient_itself, by_product(0.01)),
        ("sgd_hd_multiplicative_(lr0=0.1,beta=0.02)", gradient_itself, by_cosine(0.02)),
        ("sgd_hd_nesterov_(mu=0.9,lr0=0.1,beta=0.01)", nesterov, by_product(0.01)),
        ("adam_hd_(lr0=0.1,beta=1e-3)", adam, by_product(1e-3)),
    ],
)
def test_lrs_and_weights_are_those_of_the_formulas(name: str, directions: Any, move: Any) -> None:
    expected = VECTORS[name]
    x0 = np.array(VECTORS["x0"])
    lrs, path = descended(directions(), 0.1, move, len(expected["lr"]), x0, CURVATURE)
    assert lrs == pytest.approx(expected["lr"], rel=1e-9)
    assert np.array(path) == pytest.approx(np.array(expected["x"]), rel=1e-9)


def test_an_lr_that_is_too_high_comes_down_below_what_is_stable() -> None:
    """In one dimension of curvature 1 an LR above 2 diverges."""
    expected = VECTORS["one_dim_overshoot_(c=1,x0=1,lr0=2.5,beta=0.02)"]["lr"]
    one = np.array([1.0])
    lrs, _ = descended(gradient_itself(), 2.5, by_product(0.02), len(expected), one, one)
    assert lrs == pytest.approx(expected, rel=1e-9)
    assert lrs[5] < 2.0


def test_an_lr_of_zero_finds_its_way_and_settles_as_the_gradient_vanishes() -> None:
    expected = VECTORS["one_dim_(c=1,x0=1,lr0=0,beta=0.05,400 steps)"]
    one = np.array([1.0])
    lrs, path = descended(gradient_itself(), 0.0, by_product(0.05), 400, one, one)
    for step, lr in expected["lr_at"].items():
        assert lrs[int(step) - 1] == pytest.approx(lr, rel=1e-7)
    assert float(path[-1][0]) == pytest.approx(expected["x_end"], rel=1e-5)


def rule(form: Form, rate: float = 0.02, low: float = 1e-6, high: float = 1e6) -> Rule:
    return Rule(form, rate, 0.1, low, high)


def test_a_report_of_several_products_moves_the_lr_as_many_times() -> None:
    products, norms, others = (0.5, -0.2, math.nan, 0.3), (1.0, 2.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.5)
    moved = rule(Form.MULTIPLICATIVE).after(Adapted.begin(0.1), products, norms, others)
    assert moved.lr == pytest.approx(0.1 * 1.01 * 0.998 * 1.012, rel=1e-12)
    assert moved.steps == 3  # one had none
    moved = rule(Form.ADDITIVE, 0.01).after(Adapted.begin(0.1), products)
    assert moved.lr == pytest.approx(0.1 + 0.01 * 0.6, rel=1e-12)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
def test_but_for_the_additive_one_no_form_knows_the_unit_of_the_loss(unit: float) -> None:
    """A loss in another unit has gradients and directions in it, and their LR is in the squared unit's inverse."""
    products, norms = np.array([0.5, -0.2, 0.3]), np.array([1.0, 2.0, 1.0])
    for form in (Form.MULTIPLICATIVE, Form.SCALED):
        moved = rule(form).after(Adapted.begin(0.1), list(products), list(norms), list(norms))
        other = rule(form).after(Adapted.begin(0.1), list(products * unit**2), list(norms * unit), list(norms * unit))
        assert other.lr == pytest.approx(moved.lr, rel=1e-9)


def test_the_scaled_form_is_the_additive_one_at_a_rate_from_the_mean_squared_norm() -> None:
    moved = rule(Form.SCALED).after(Adapted.begin(0.1), (0.5, 0.25), (1.0, 2.0))
    assert moved.square == pytest.approx(2.5)
    assert moved.lr == pytest.approx(0.1 + 0.02 * 0.1 * (0.5 / 1.0 + 0.25 / 2.5), rel=1e-12)
    steady = rule(Form.SCALED).after(moved, [0.0] * 5 * MEMORY, [3.0] * 5 * MEMORY)
    assert steady.square == pytest.approx(9.0, rel=0.01)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_lr_moves_by_a_factor_of_ten_in_a_hundred_steps_at_most_and_stays_in_its_bounds(sign: float) -> None:
    own = rule(Form.ADDITIVE, 1e3)
    adapted, lrs = Adapted.begin(0.1), []
    for _ in range(3):
        adapted = own.after(adapted, [sign] * (STRIDE - 1))
        lrs.append(adapted.lr)
        adapted = own.after(adapted, [sign])
    assert lrs == pytest.approx([0.1 * FURTHEST ** (sign * n) for n in (1, 2, 3)], rel=1e-9)
    bounded = rule(Form.ADDITIVE, 1e3, low=0.05, high=0.3).after(Adapted.begin(0.1), [sign])
    assert bounded.lr == (0.3 if sign > 0 else 0.05)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_moves_nothing(form: Form, odd: float) -> None:
    adapted = rule(form).after(Adapted.begin(0.1), [odd, odd], [math.nan, odd], [0.0, 1.0])
    assert adapted.lr == 0.1
    assert math.isfinite(adapted.square)
    assert rule(form).after(Adapted.begin(0.1), []) == Adapted.begin(0.1)


def test_a_cosine_is_one_whatever_rounding_says() -> None:
    assert cosine(1.0 + 1e-7, 1.0, 1.0) == 1.0
    assert math.isnan(cosine(0.0, 0.0, 1.0))
