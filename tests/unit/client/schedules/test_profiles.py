"""Shapes of LRs have the values of their formulas, and say what is wrong with their parameters."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from lrpilot import schedules
from lrpilot.schedules import Shape
from lrpilot.schedules.shape import MAX_NAMES, NAMES

from tests.support.shapes import SHAPES, shapes

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "data" / "methods" / "schedules.json").read_text("utf-8")
)
"""Made by a plain reference implementation in double precision, written with ten digits."""
PROFILES, WSD = VECTORS["profiles"], VECTORS["wsd"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rex", schedules.rex()),
        ("rex", schedules.rex(alpha=0.5)),
        ("rex_beta_0.9_(common_code)", schedules.rex(0.9)),
        ("linear", schedules.linear()),
        ("linear", schedules.rex(alpha=0)),
        ("linear", schedules.polynomial(1)),
        ("cosine", schedules.cosine()),
        ("one_minus_sqrt", schedules.one_minus_sqrt()),
        ("one_minus_square", schedules.one_minus_square()),
        ("mirror_cosine", schedules.mirror_cosine()),
    ],
)
def test_a_profile_is_its_formula(name: str, shape: Shape) -> None:
    assert [shape.weight(z) for z in PROFILES["z"]] == pytest.approx(PROFILES[name], rel=1e-9, abs=1e-11)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("linear", schedules.linear()),
        ("cosine", schedules.cosine()),
        ("rex", schedules.rex()),
        ("one_minus_sqrt", schedules.one_minus_sqrt()),
        ("one_minus_square", schedules.one_minus_square()),
        ("wsd_20_linear", schedules.wsd(0.2)),
        ("wsd_50_one_minus_sqrt", schedules.wsd(0.5, schedules.one_minus_sqrt())),
    ],
)
def test_the_area_under_a_profile(name: str, shape: Shape) -> None:
    n = 20_000
    middles = math.fsum(shape.at(2 * i + 1, 2 * n) for i in range(n)) / n
    assert middles == pytest.approx(PROFILES["area_under_profile"][name], abs=1e-6)


def test_the_area_under_rex_is_that_of_its_integral() -> None:
    assert PROFILES["area_under_profile"]["rex"] == pytest.approx(2 * (1 - math.log(2)), rel=1e-9)


def test_rex_read_at_marks_is_held_between_them() -> None:
    for name, marks, n_steps in (
        ("rex_sampled_50_75_T8", (0.5, 0.75), 8),
        ("rex_sampled_every_10pct_T20", [i / 10 for i in range(1, 10)], 20),
        ("rex_every_step_T8", [i / 8 for i in range(1, 8)], 8),
    ):
        shape = schedules.sampled("rex", marks)
        assert [shape.at(t, n_steps) for t in range(n_steps)] == pytest.approx(PROFILES[name], rel=1e-9)
    assert [schedules.rex().at(t, 8) for t in range(8)] == pytest.approx(PROFILES["rex_every_step_T8"], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "cooldown"),
    [("linear", "linear"), ("sqrt", "one_minus_sqrt"), ("square", "one_minus_square"), ("cosine", "cosine")],
)
def test_a_cooldown_after_a_warm_up_and_a_plateau(name: str, cooldown: str) -> None:
    total, warmup = WSD["T"], WSD["W"]
    share = WSD["frac"] * total / (total - warmup)  # of what follows the warm-up
    shape = schedules.warmed(schedules.wsd(share, cooldown), warmup / total, 0.01)
    assert [shape.at(t, total) for t in WSD["t"]] == pytest.approx(WSD[name], rel=1e-9, abs=1e-9)


def test_the_exponential_cooldowns() -> None:
    halves, floored = WSD["minicpm_exponential"], WSD["exp_to_final_0.1"]
    lives = 20 / halves["T_half"]
    shape = schedules.wsd(0.2, schedules.half_life(lives))
    assert [shape.at(t, 100) for t in halves["t"]] == pytest.approx(halves["lr"], rel=1e-9)
    shape = schedules.wsd(0.2, schedules.exponential(0.1))
    assert [shape.at(t, 100) for t in floored["t"]] == pytest.approx(floored["lr"], rel=1e-9)


def test_the_power_scheduler() -> None:
    vector = VECTORS["power_scheduler"]
    total = vector["tokens"][-1]
    shape = schedules.power_scheduler(vector["batch"], total, a=vector["a"], b=vector["b"], highest=vector["hi"])
    assert [vector["hi"] * shape.weight(n / total) for n in vector["tokens"]] == pytest.approx(vector["lr"], rel=1e-9)


def test_two_points_make_three_lines() -> None:
    shape = schedules.two_point(0.5, 0.5, 0.5, 0.8, floor=0.1)
    assert [shape.weight(z) for z in (0, 0.25, 0.5, 0.625, 0.75, 0.875, 1)] == pytest.approx(
        [1, 0.9, 0.8, 0.6, 0.4, 0.25, 0.1]
    )
    assert schedules.two_point(0, 0, 0.5, 1.0).weight(0) == 0.5, "a jump at the start"
    assert schedules.two_point(1, 0, 0, 1).weight(0.99) == 1


def test_from_the_floor_and_back_to_it_at_new_data() -> None:
    shape = schedules.rewarmed(0.01, 0.1)
    assert [shape.at(step, 1000) for step in (0, 5, 10, 505, 1000)] == pytest.approx([0.1, 0.55, 1, 0.55, 0.1])


def test_the_infinite_schedule_with_a_known_end() -> None:
    shape = schedules.infinite(0.1, 0.5, 0.2)
    values = [shape.at(step, 100) for step in (0, 5, 10, 35, 60, 80, 90, 100)]
    assert values == pytest.approx([0, 0.5, 1, 0.775, 0.55, 0.55, math.sqrt(0.055), 0.1])


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if not shape.way.fault(1.0, 0.0)], ids=str)
def test_a_profile_is_one_at_its_top_and_ends_at_its_floor(shape: Shape) -> None:
    weights = [shape.at(step, 1000) for step in range(1001)]
    assert max(weights) == pytest.approx(1.0, rel=0.01), "a top right before a jump is between two steps"
    assert schedules.floored(shape, 0.3).weight(1.0) == pytest.approx(0.3 + 0.7 * weights[-1], rel=1e-12)
    assert schedules.warmed(shape, 0.5).weight(0.0) == 0
    assert schedules.warmed(shape, 0.5).weight(1.0) == weights[-1]


def test_every_name_is_tried() -> None:
    assert {name for shape in SHAPES for name in shape.name.split("/")} == set(NAMES)


@hypothesis.given(shape=shapes)
def test_the_text_of_a_shape_reads_back_as_the_same(shape: Shape) -> None:
    assert Shape.parse(str(shape)) == shape
    assert hash(Shape.parse(str(shape))) == hash(shape)
    assert Shape(shape.name, shape.parameters) == shape


@pytest.mark.parametrize(
    ("text", "whole", "parameters"),
    [
        ("rex", "rex", (1.0,)),
        ("rex()", "rex", (1.0,)),
        ("rex(1.0)", "rex", (1.0,)),
        (" rex( 0.9 ) ", "rex(0.9)", (0.9,)),
        ("wsd", "wsd/linear", (0.1,)),
        ("wsd(0.2)", "wsd/linear(0.2)", (0.2,)),
        ("wsd/rex(0.2)", "wsd/rex(0.2, 1)", (0.2, 1.0)),
        ("step(0.5)", "step(0.5, 0.5, 0.75)", (0.5, 0.5, 0.75)),
        ("one_cycle(0.4)", "one_cycle(0.4, 25, 10000)", (0.4, 25.0, 1e4)),
        ("floored/exponential", "floored/exponential", (0.1,)),
    ],
)
def test_what_is_left_out_of_a_text_has_its_usual_value(text: str, whole: str, parameters: tuple[float, ...]) -> None:
    shape = Shape.parse(text)
    assert (str(shape), shape.parameters) == (whole, parameters)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no shape"),
        ("REX", "is no shape"),
        ("rex(0.9", "is no shape"),
        ("rex(0.9)(1)", "is no shape"),
        ("bent", "'bent' is not known; give one of constant"),
        ("rex/linear", "'rex' is put around 'linear'"),
        ("/".join(["wsd"] * MAX_NAMES), "names"),
        ("linear(1)", "linear has no parameters"),
        ("rex(1, 2)", "2 parameters for rex(beta)"),
        ("rex(-0.1)", "beta -0.1"),
        ("rex(nan)", "not finite"),
        ("rex(one)", "no numbers"),
        ("polynomial(0)", "power 0"),
        ("half_life(-1)", "lives"),
        ("power_scheduler(0)", "share of 0"),
        ("power_scheduler(0.1, -1)", "exponent -1"),
        ("step(2)", "factor 2"),
        ("step(0.1, 0.5, 0.5)", "don't ascend"),
        ("one_cycle(1.1)", "rise 1.1"),
        ("one_cycle(0.3, 0.5)", "div 0.5"),
        ("infinite(0.5, 0.5, 0.1)", "more than 1 together"),
        ("infinite(0, 0.5, 0.1, 0.5, 0)", "low is 0"),
        ("points", "0 numbers"),
        ("points(0, 1, 0.5, 1)", "not from 0 to 1"),
        ("points(0, 1, 0.5, 1, 0.5, 0.9, 0.5, 0.8, 1, 0)", "more than two points"),
        ("points(0, 1, 1, 1.01)", "weight 1.01"),
        ("wsd(1.5)", "share 1.5"),
        ("warmed(1)", "share 1"),
        ("warmed(0.1, 2)", "low 2"),
        ("floored(-0.1)", "floor -0.1"),
        (f"points({', '.join(['0, 1'] * 600)})", "1200 parameters are more"),
    ],
)
def test_what_is_no_shape_is_refused_with_a_word_on_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        Shape.parse(text)
    assert words in str(caught.value)


def test_functions_refuse_what_they_cannot_make() -> None:
    with pytest.raises(ValueError, match="never reaches zero"):
        schedules.exponential(0.0)
    with pytest.raises(ValueError, match="floored/exponential"):
        Shape.EXPONENTIAL.weight(0.5)
    with pytest.raises(ValueError, match="don't ascend"):
        schedules.sampled("rex", (0.5, 0.5))
    with pytest.raises(ValueError, match="power_scheduler"):
        schedules.power_scheduler(128, 1e9, b=0.5)
    with pytest.raises(ValueError, match="anneal_from"):
        schedules.anneal_from(0.1, 0)


def test_the_lrs_of_an_annealing() -> None:
    assert schedules.anneal_from(0.4, 4) == pytest.approx((0.4, 0.3, 0.2, 0.1))
    assert schedules.anneal_from(0.4, 2, "one_minus_square") == pytest.approx((0.4, 0.3))


def test_shapes_need_neither_torch_nor_numpy_nor_grpc() -> None:
    code = (
        "import sys; from lrpilot import schedules; schedules.transfer(0.1, 'linear', 'rex');"
        "print(sorted({'torch', 'numpy', 'grpc', 'pydantic'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
