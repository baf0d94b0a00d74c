"""The closed form of schedule refinement, its smoothing, and refining while a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws import refinement
from tuner_server.core.laws.optimizer_kind import OptimizerKind
from tuner_server.core.laws.refinement import MOST_CHANGE, FloatArray

SGD, ADAM = OptimizerKind.SGD, OptimizerKind.ADAM
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[3] / "data/methods/refinement.json").read_text())


def _shape(norms: Any, power: float) -> FloatArray:
    return refinement.shape_of(np.asarray(norms, dtype=np.float64) ** -power)


@pytest.mark.parametrize(("kind", "expected"), [(SGD, "sgd_over_max"), (ADAM, "adam_l1_over_max")])
def test_weights_are_powers_of_the_norms(kind: OptimizerKind, expected: str) -> None:
    mixed = VECTORS["mixed"]
    assert _shape(mixed["g"], kind.power) == pytest.approx(mixed[expected], abs=1e-9)


def test_the_unit_of_the_norms_does_not_matter() -> None:
    vector = VECTORS["scale_invariance_of_shape"]
    assert _shape(vector["g"], 2) == pytest.approx(vector["sgd_over_max"], abs=1e-9)
    norms = np.random.default_rng(0).lognormal(size=300)
    for kind in OptimizerKind:
        assert refinement.refined(norms * 1e-7, kind) == pytest.approx(refinement.refined(norms, kind), rel=1e-9)


@pytest.mark.parametrize("n", [10, 57, 1000, 3000, 12_000])
@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_equal_norms_give_linear_decay(n: int, kind: OptimizerKind) -> None:
    assert np.abs(refinement.refined(np.full(n, 3.7), kind) - refinement.linear(n)).max() < 1e-12


@pytest.mark.parametrize("b", [0.5, 1.0, 2.0])
def test_weights_that_are_a_power_of_what_is_left_give_a_power(b: float) -> None:
    n = 20_000
    left = 1 - (np.arange(n) + 0.5) / n
    assert refinement.shape_of(left**b) == pytest.approx(left ** (2 * b + 1), abs=2e-4)


def test_weights_that_rise_evenly_peak_at_one_over_the_root_of_three() -> None:
    vector = VECTORS["continuous_limits"]["w=x (g=x^-1/2, power 2)"]
    shape = refinement.shape_of((np.arange(2000) + 0.5) / 2000)
    assert shape[vector["t"]] == pytest.approx(vector["over_max"], abs=1e-6)
    assert shape.argmax() / 2000 == pytest.approx(3**-0.5, abs=1e-3)


def test_falling_then_rising_norms_give_a_warm_up_and_a_fast_decay() -> None:
    vector = VECTORS["synthetic_norms"]
    norms = np.interp(np.linspace(0, 1, vector["n"]), vector["knots_x"], vector["knots_g"])
    shape = _shape(norms, vector["power"])
    for step, expected in vector["over_max_at"].items():
        assert shape[int(step)] == pytest.approx(expected, abs=1e-8)
    assert shape.argmax() / (vector["n"] - 1) == pytest.approx(vector["peak_at_share_of_run"], abs=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_norms_are_smoothed_by_a_median_that_is_mirrored_at_the_end(share: float) -> None:
    vector = VECTORS["median_filter"]
    expected = vector[f"share_{share}"]
    width = refinement.width_of(len(vector["g"]), share)
    assert width == expected["width"]
    assert refinement.smoothed(np.array(vector["g"]), width).tolist() == expected["smoothed"]


def test_norms_of_a_long_run_are_smoothed_over_a_tenth_of_ten_thousand_points() -> None:
    assert len(refinement.for_smoothing(np.ones(1000))) == 10_000
    assert refinement.width_of(10_000) == 1001
    assert len(refinement.for_smoothing(np.ones(999))) == 999
    assert len(refinement.for_smoothing(np.ones(10_001))) == 10_001


@pytest.mark.parametrize("n", [10, 15, 40, 300, 2500])
@pytest.mark.parametrize("kind", list(OptimizerKind))
@pytest.mark.parametrize("wrong", [1e-12, 1e-4, 1e12, 0.0, float("nan"), float("inf")])
def test_one_norm_alone_never_takes_the_schedule(n: int, kind: OptimizerKind, wrong: float) -> None:
    for at in (0, 1, n // 2, n - 2, n - 1):
        norms = np.ones(n)
        norms[at] = wrong
        assert refinement.refined(norms, kind) == pytest.approx(refinement.linear(n), abs=1e-6)


def test_what_is_missing_is_interpolated_and_what_is_tiny_is_floored() -> None:
    norms = np.linspace(1.0, 2.0, 101)
    holes = norms.copy()
    holes[[20, 21, 50]] = [0.0, np.nan, np.inf]
    filled, whole = refinement.completed(holes), refinement.completed(norms)
    assert filled is not None
    assert whole is not None
    assert filled == pytest.approx(whole, rel=1e-12)
    norms[30:40] = 1e-30
    floored = refinement.completed(norms)
    assert floored is not None
    assert floored.min() == pytest.approx(1e-6 * np.median(norms))


@pytest.mark.parametrize("norms", [[], [1.0] * 9, [0.0] * 50, [float("nan")] * 50 + [2.0] * 9])
def test_too_few_norms_say_nothing(norms: list[float]) -> None:
    assert refinement.refined(norms, SGD, 50).tolist() == refinement.linear(50).tolist()


def test_another_length_has_the_same_shape() -> None:
    norms = np.linspace(3.0, 1.0, 2000)
    short, long = refinement.refined(norms, SGD, 500), refinement.refined(norms, SGD, 8000)
    assert short.max() == long.max() == 1.0
    assert short[-1] == long[-1] == 0.0
    assert refinement.brought_to(long, 500) == pytest.approx(short, abs=1e-3)


def test_under_way_the_shape_goes_on_where_it_is_and_ends_at_zero() -> None:
    present = refinement.linear(800)
    new = refinement.refined_on_the_way(present, 240, SGD, np.linspace(1.0, 3.0, 100).tolist())
    assert new[:240].tolist() == present[:240].tolist()
    assert new[240] == pytest.approx(present[240], rel=1e-12)
    assert new[-1] == 0.0


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_under_way_norms_that_stay_give_linear_decay_from_there(kind: OptimizerKind) -> None:
    for present in (refinement.linear(800), (1 + np.cos(np.pi * np.linspace(0, 1, 800))) / 2):
        new = refinement.refined_on_the_way(present, 240, kind)
        line = present[240] * (799 - np.arange(240, 800)) / (799 - 240)
        near = np.abs(np.log(line[:-1] / present[240:-1])) < np.log(MOST_CHANGE)
        assert new[240:-1][near] == pytest.approx(line[:-1][near], rel=1e-12)


def test_under_way_the_rest_is_the_rest_of_the_whole() -> None:
    guess = np.linspace(1.0, 2.0, 100)
    weights = refinement.smoothed(refinement.brought_to(guess, 800)) ** -2.0
    whole = refinement.shape_of(weights)
    assert refinement.refined_on_the_way(whole, 240, SGD, (7 * guess).tolist()) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_under_way_no_step_changes_by_more_than_the_bound_and_none_is_above_the_peak(factor: float) -> None:
    old = refinement.linear(800)
    new = refinement.refined_on_the_way(old, 240, SGD, [1.0] * 50 + [factor] * 50)
    ratio = new[:-1] / old[:-1]
    assert ratio.min() >= 1 / MOST_CHANGE - 1e-12
    assert ratio.max() <= MOST_CHANGE + 1e-12
    assert max(ratio.max(), 1 / ratio.min()) == pytest.approx(MOST_CHANGE)
    assert refinement.refined_on_the_way(old, 10, SGD, [1.0] * 50 + [factor] * 50).max() <= 1.0


def test_under_way_nothing_is_left_to_change_at_the_end() -> None:
    old = refinement.linear(100)
    for behind in (99, 100, 200):
        assert refinement.refined_on_the_way(old, behind, SGD, [1.0, 2.0]).tolist() == old.tolist()


def test_norms_that_go_the_same_way_don_t_drift_apart() -> None:
    norms = np.linspace(1.0, 4.0, 200)
    assert refinement.drift(norms, 50 * norms) == pytest.approx(1.0)
    assert refinement.drift(norms, np.ones(200)) == pytest.approx(3.5 / 1.5, rel=0.02)
    noise = np.random.default_rng(0).lognormal(size=(2, 240))
    assert refinement.drift(noise[0], noise[1]) < 1.5
    assert refinement.drift(norms[:1], norms[:1]) == 1.0


def test_knots_are_few_and_near_the_shape() -> None:
    norms = np.interp(np.linspace(0, 1, 4000), [0, 0.02, 0.1, 1], [15, 4, 1, 2])
    shape = refinement.refined(norms, SGD)
    found = refinement.knots(shape, 100)
    assert found[0][0] == 0.0
    assert found[-1] == (1.0, 0.0)
    assert len(found) < 100
    drawn = np.interp(np.linspace(0, 1, 4000), [x for x, _ in found], [y for _, y in found])
    assert np.abs(drawn - shape).max() <= 1e-3
    assert refinement.knots(refinement.linear(500), 100) == [(0.0, 1.0), (1.0, 0.0)]
    assert (1000 / 3999, float(shape[1000])) in refinement.knots(shape, 100, 1000)
