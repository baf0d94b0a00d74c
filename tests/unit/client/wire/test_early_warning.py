from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.early_warning import MAX_ROW, EarlyWarning, WarningRule, extrapolated
from lrpilot.wire.messages.early_warnings import warning_from_proto, warning_to_proto

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "data" / "methods" / "stability.json").read_text("utf-8")
)["growth_warning"]

RISE = EarlyWarning("gradient_norm", WarningRule.RISE, 10.0, 5)
ABOVE = EarlyWarning("update_ratio", WarningRule.ABOVE, 0.1, 5)
BELOW = EarlyWarning("gradient_over_eps", WarningRule.BELOW, 10.0, 3, ends=False)
GROWTH = EarlyWarning("output_logit", WarningRule.GROWTH, 1e4, 1)
FLAT = [1.0] * 40


def test_the_extrapolation_is_that_of_the_vectors() -> None:
    xs, ys = VECTORS["log2_step"], VECTORS["log10_max_logit"]
    assert extrapolated(xs, ys, 8) == pytest.approx(VECTORS["extrapolated_log10_at_log2_step_8"], abs=1e-9)


def test_the_extrapolation_of_noisy_points_is_the_one_with_the_least_squares() -> None:
    numpy = pytest.importorskip("numpy")
    xs, ys = [0.0, 1.0, 2.5, 3.0, 4.0, 6.0], [1.0, -2.0, 0.3, 4.0, 1.0, 2.0]
    assert extrapolated(xs, ys, 9.0) == pytest.approx(numpy.polyval(numpy.polyfit(xs, ys, 2), 9.0))


def test_a_logit_on_the_curve_of_the_vectors_is_warned_of_where_the_probe_would_end_too_high() -> None:
    def logit(steps: int) -> float:
        x = math.log2(steps)
        return float(10 ** (0.5 + 0.09 * x + 0.03 * x * x))

    values = [logit(n) for n in range(1, 17)]
    above = EarlyWarning("output_logit", WarningRule.GROWTH, 10**3.1, 1)
    assert above.first(values, 0, 256) == 15, "10 ** 3.14 at step 256"
    assert above.first(values, 0, 128) is None
    assert above.first(values[:15], 0, 256) is None, "it takes five points"
    assert EarlyWarning("output_logit", WarningRule.GROWTH, 10**3.2, 1).first(values, 0, 256) is None


def test_a_logit_that_is_high_and_does_not_grow_is_not_warned_of() -> None:
    assert GROWTH.first([2e4] * 32, 0, 64) is None
    assert GROWTH.first([1e3 * n for n in range(1, 33)], 0, 64) is not None


def test_a_gradient_norm_that_rises_is_warned_of_once_it_is_far_above_its_median_for_so_many_steps() -> None:
    values = FLAT + [3.0**n for n in range(1, 12)]
    step = RISE.first(values, 2, 100)
    assert step is not None
    weight, smoothed, far = 2 / 11, 0.0, []
    for n in range(1, 12):
        before, smoothed = smoothed, smoothed + weight * (n * math.log(3.0) - smoothed)
        assert smoothed > before
        far.append(smoothed > math.log(10.0))
    assert step == len(FLAT) + far.index(True) + 4, "the median of so many is still that of the flat ones"


@pytest.mark.parametrize(
    "values",
    [
        FLAT,
        [*FLAT, 1e6, *FLAT],
        [1e6, 1e5, 1e4, *FLAT],
        [10.0 ** (-n / 4) for n in range(40)],
        [1.0 + 0.5 * math.sin(n) for n in range(200)],
        [math.nan] * 40,
        [0.0] * 40,
        [],
    ],
    ids=["flat", "an outlier", "a high start", "a fall", "a wave", "no numbers", "zeros", "nothing"],
)
def test_a_gradient_norm_that_does_not_rise_for_long_is_not_warned_of(values: Sequence[float]) -> None:
    assert RISE.first(values, 2, 400) is None


def test_a_norm_that_is_high_and_falls_again_is_no_sign_any_more() -> None:
    assert RISE.first(FLAT + [1e4] * 3 + FLAT, 0, 200) is None


def test_levels_count_after_the_warm_up_and_for_so_many_steps_in_a_row() -> None:
    assert ABOVE.first([0.2] * 4 + [0.1] + [0.2] * 5, 0, 20) == 9
    assert ABOVE.first([0.2] * 5, 0, 20) == 4
    assert ABOVE.first([0.2] * 5, 1, 20) is None
    assert ABOVE.first([0.2] * 5, 100, 20) is None
    assert ABOVE.first([0.2, math.nan] * 10, 0, 20) is None, "a step without a value shows nothing"
    assert BELOW.first([20.0, 9.0, 9.0, 9.0, 20.0], 0, 20) == 3
    assert BELOW.first([math.inf, math.nan, 10.0, 10.0, 10.0], 0, 20) is None


@pytest.mark.parametrize("warning", [RISE, ABOVE, GROWTH, BELOW])
def test_what_comes_later_changes_nothing_about_a_sign_that_was_there(warning: EarlyWarning) -> None:
    values = [100.0 / 1.5**n for n in range(20)] + [0.01 * 2.0**n for n in range(30)]
    step = warning.first(values, 3, 60)
    assert step is not None
    assert warning.first(values[: step + 1], 3, 60) == step
    assert warning.first(values[:step], 3, 60) is None


@pytest.mark.parametrize("warning", [RISE, ABOVE, BELOW, GROWTH])
def test_a_warning_goes_over_the_wire_as_it_is(warning: EarlyWarning) -> None:
    assert warning_from_proto(warning_to_proto(warning)) == warning


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"rule": 99}, "rule 99 is not known"),
        ({"rule": pb.WARNING_RULE_UNSPECIFIED}, "rule 0 is not known"),
        ({"level": 1.0}, "the level of rise is above 1, not 1"),
        ({"rule": pb.WARNING_RULE_ABOVE, "level": 0.0}, "the level of above is above 0, not 0"),
        ({"level": math.nan}, "not nan"),
        ({"row": 0}, f"1 to {MAX_ROW} steps in a row, not 0"),
        ({"row": MAX_ROW + 1}, f"1 to {MAX_ROW} steps in a row, not {MAX_ROW + 1}"),
    ],
)
def test_a_warning_that_makes_no_sense_is_refused(fields: dict[str, Any], fault: str) -> None:
    message = pb.EarlyWarning(measure="gradient_norm", rule=pb.WARNING_RULE_RISE, level=10.0, row=5, ends=True)
    for name, value in fields.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=fault):
        warning_from_proto(message)


def test_what_was_seen_is_told_in_words() -> None:
    assert RISE.words(19) == "gradient_norm rose above 10 times its median for 5 steps, up to step 20"
    assert ABOVE.words(4) == "update_ratio was above 0.1 for 5 steps, up to step 5"
    assert BELOW.words(4) == "gradient_over_eps was below 10 for 3 steps, up to step 5"
    assert GROWTH.words(31) == "output_logit was on its way above 10000 for 1 step, up to step 32"
